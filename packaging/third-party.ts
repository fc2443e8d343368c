import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

function licenseOf(folder: string): string {
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (file === undefined) throw new Error(`code of ${folder} is in the bundle, and there is no license`);
  return readFileSync(join(folder, file), "utf8").trim();
}

/**
 * Whose work is in the packages beside ours, and on what terms.
 * @param bundled folders of the npm packages whose code is in the bundle
 * @param runtimeLicense of Node.js and what is in it
 * @throws when one of them has no license
 */
export function thirdPartyText(bundled: readonly string[], runtimeLicense: string): string {
  const parts = bundled.map((folder) => {
    const name = folder.replace(/^.*node_modules\//, "");
    return [`${name} (kvmnatd.js)`, licenseOf(folder)] as const;
  });
  const all = [...parts, ["Node.js (node)", runtimeLicense.trim()] as const];
  return all.map(([what, text]) => `${"=".repeat(80)}\n${what}\n\n${text}\n`).join("\n");
}
