import { EXIT } from "../errors.ts";
import { askDaemon } from "../host/control-socket.ts";
import type { Request } from "../host/control-socket.ts";
import type { Context } from "./context.ts";

/**
 * `kvmnatd reload`, `kvmnatd handover`: asks the daemon and waits until it is done.
 * Its exit code is the daemon's answer: `systemctl reload` fails when the new config cannot be put in force.
 */
export async function sendRequest({ paths, print, complain }: Context, request: Request): Promise<number> {
  const answer = await askDaemon(paths.runtimeDir, request);
  if (answer === undefined) {
    complain("kvmnatd does not run; start it with `systemctl start kvmnatd`");
    return EXIT.notRunning;
  }
  if (answer.text !== "") (answer.exitCode === EXIT.ok ? print : complain)(answer.text);
  return answer.exitCode;
}
