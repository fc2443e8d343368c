import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

function licenseOf(folder: string): string {
  const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
  if (file === undefined) throw new Error(`the bundle contains code of ${folder}, which has no license file`);
  return readFileSync(join(folder, file), "utf8").trim();
}

/**
 * Lists the third-party code in the packages, with its licenses.
 * @param bundled folders of the npm packages whose code is in the bundle
 * @param runtimeLicense the license text of Node.js and its libraries
 * @throws when a package has no license file
 */
export function thirdPartyText(bundled: readonly string[], runtimeLicense: string): string {
  const parts = bundled.map((folder) => {
    const name = folder.replace(/^.*node_modules\//, "");
    return [`${name} (kvmnatd.js)`, licenseOf(folder)] as const;
  });
  const all = [...parts, ["Node.js (node)", runtimeLicense.trim()] as const];
  return all.map(([what, text]) => `${"=".repeat(80)}\n${what}\n\n${text}\n`).join("\n");
}
