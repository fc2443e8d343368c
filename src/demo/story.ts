import { createStyle } from "../cli/style.ts";
import { EXIT } from "../errors.ts";
import { waitUntilMet } from "./check.ts";
import { buildLab, HOST_ADDRESS } from "./lab.ts";
import { createSteps, readRules } from "./steps.ts";

const CONFIG = `guests:
  devstack:            # the name of a libvirt domain
    ports:
      - 1122:22        # host port 1122 -> guest port 22
      - 1180:80
`;

export interface DemoOptions {
  /** The executable and script that run this program. */
  readonly selfCommand: readonly string[];
  readonly color: boolean;
  readonly write: (text: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Builds the lab and plays the story, inside the demo's namespaces.
 * @throws KvmnatdError when a step did not work, with what was expected and what was found
 */
export async function playStory({ selfCommand, color, write }: DemoOptions): Promise<number> {
  const style = createStyle(color);
  const say = (text: string): void => write(`${style("bold", style("cyan", text))}\n`);
  const show = (text: string): void => {
    if (text !== "") write(`${text.trimEnd().replace(/^/gm, "    ")}\n`);
  };
  say("A host with a libvirt-like network, a guest and a client, in a network namespace of their own.");
  show(`client 198.51.100.2 --- ${HOST_ADDRESS} host 192.168.122.1 (virbr0) --- guest devstack (DHCP)`);
  const lab = await buildLab(CONFIG);
  const writer = lab.libvirtHelper ? "libvirt's own helper" : "a script";
  show(`A real dnsmasq gives leases; ${writer} writes virbr0.status.`);
  say("\nThe port map:");
  show(CONFIG);
  const onMessage = (message: string): void => show(style("dim", message));
  const steps = createSteps({ lab, selfCommand, show, onMessage }, await readRules());
  for (const [index, { title, act, expect }] of steps.entries()) {
    say(`\n${index + 1}. ${title}`);
    await act();
    for (const check of expect) show(check.describe(await waitUntilMet(check)));
  }
  say("\nThat was the demo: every connection was real. Nothing of it is left on this machine.");
  return EXIT.ok;
}
