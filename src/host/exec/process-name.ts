import { writeFile } from "node:fs/promises";
import { errnoOf } from "../../errors.ts";

/** Sets the name of this process in ps, top and the journal, which is Node's `MainThread` else. @param name at most 15 bytes (prctl(2)) */
export async function setProcessName(name: string): Promise<void> {
  try {
    await writeFile("/proc/self/comm", name);
  } catch (error) {
    // The name has no other effect.
    if (errnoOf(error) === undefined) throw error;
  }
}
