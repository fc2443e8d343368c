import { performance } from "node:perf_hooks";
import type { Lab } from "../support/lab.ts";
import type { Monitor } from "./monitor.ts";
import { MOVER } from "./world.ts";

const CHAIN = "KVMNATD-DNAT";

/** The least that any program of this kind does: read the rules, and replace the one that changed. */
export interface Floor {
  /** Milliseconds from the start of iptables-save to the new rule in the kernel. */
  move(address: string): Promise<number>;
  close(): void;
}

/** @param lab with the daemon's rules in it, but no daemon */
export async function createFloor(lab: Lab, monitor: Monitor): Promise<Floor> {
  // A shell that is already there: the start of nsenter is not to be measured.
  const shell = lab.spawn(["sh"]);
  const { stdout } = await lab.exec(["iptables-save", "-t", "nat"]);
  let rule = stdout.split("\n").find((line) => line.includes(`--dport ${MOVER.published} `)) ?? "";
  if (rule === "") throw new Error(`no rule for port ${MOVER.published} in\n${stdout}`);
  return {
    move: async (address) => {
      const next = rule.replace(/--to-destination .*/, `--to-destination ${address}:${MOVER.target}`);
      const text = `*nat\n-D ${rule.slice("-A ".length)}\n-I ${CHAIN} 1${next.slice(`-A ${CHAIN}`.length)}\nCOMMIT\n`;
      rule = next;
      const seen = monitor.seen(`${address}:${MOVER.target}`);
      const start = performance.now();
      shell.stdin.write(`iptables-save >/dev/null; iptables-restore --noflush <<'RULES'\n${text}RULES\n`);
      return (await seen) - start;
    },
    close: () => void shell.stdin.end(),
  };
}
