import { execFileSync } from "node:child_process";
import { chmodSync, linkSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { thirdPartyText } from "./third-party.ts";
import type { Runtime } from "./runtime.ts";

const BUNDLE = "dist/kvmnatd.js";
const FILES = "packaging/files";
const DOC = "usr/share/doc/kvmnatd";

/** Generated files: the script that writes each, and its target. */
const GENERATED = [
  { by: "packaging/man.ts", writes: "dist/man/kvmnatd.8", to: "usr/share/man/man8/kvmnatd.8.gz" },
  { by: "packaging/man.ts", writes: "dist/man/kvmnatd.yaml.5", to: "usr/share/man/man5/kvmnatd.yaml.5.gz" },
  {
    by: "packaging/catalog.ts",
    writes: "dist/kvmnatd.catalog",
    to: "usr/lib/systemd/catalog/kvmnatd.catalog",
  },
];

/** Runs the scripts that generate files for the packages. */
export function generate(): void {
  for (const script of new Set(GENERATED.map(({ by }) => by)))
    execFileSync(process.execPath, [script], { stdio: ["ignore", "ignore", "inherit"] });
}

/** Differences between distributions. */
export interface Taste {
  /** zsh's folder of completions. */
  readonly zsh: string;
}

/**
 * Copies all files of the packages below a folder, to their installed paths.
 * @throws when a file is missing
 */
export function stage(root: string, runtime: Runtime, { zsh }: Taste): void {
  const put = (to: string, content: string | Uint8Array, mode = 0o644): void => {
    const target = join(root, to);
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, to.endsWith(".gz") ? gzipSync(content, { level: 9 }) : content);
    // writeFileSync's own mode is subject to the umask.
    chmodSync(target, mode);
  };
  const copy = (from: string, to: string, mode?: number): void => put(to, readFileSync(from), mode);
  const saidBy = (...args: readonly string[]): string =>
    execFileSync(process.execPath, [BUNDLE, ...args], { encoding: "utf8" });

  copy(`${FILES}/launcher`, "usr/bin/kvmnatd", 0o755);
  // Without the interpreter line: the launcher chooses the Node.js runtime.
  put("usr/lib/kvmnatd/kvmnatd.js", readFileSync(BUNDLE, "utf8").replace(/^#!.*/, ""));
  copy(`${FILES}/with-sockets`, "usr/lib/kvmnatd/with-sockets", 0o755);
  linkSync(runtime.program, join(root, "usr/lib/kvmnatd/node"));
  copy("systemd/kvmnatd.service", "usr/lib/systemd/system/kvmnatd.service");
  copy(`${FILES}/sysusers.conf`, "usr/lib/sysusers.d/kvmnatd.conf");
  copy(`${FILES}/tmpfiles.conf`, "usr/lib/tmpfiles.d/kvmnatd.conf");
  copy(`${FILES}/kvmnatd.yaml`, "etc/kvmnatd.yaml");

  put("usr/share/kvmnatd/kvmnatd.schema.json", saidBy("schema"));
  put("usr/share/bash-completion/completions/kvmnatd", saidBy("completion", "bash"));
  put(`${zsh}/_kvmnatd`, saidBy("completion", "zsh"));
  put("usr/share/fish/vendor_completions.d/kvmnatd.fish", saidBy("completion", "fish"));
  for (const { writes, to } of GENERATED) copy(writes, to);

  for (const each of ["README.md", "CHANGELOG.md", "config.example.yaml"]) copy(each, `${DOC}/${each}`);
  for (const each of readdirSync("docs", { recursive: true, withFileTypes: true }))
    if (each.isFile()) copy(join(each.parentPath, each.name), join(DOC, each.parentPath, each.name));
  const bundled = JSON.parse(readFileSync("dist/bundled-packages.json", "utf8")) as readonly string[];
  copy(`${FILES}/copyright`, `${DOC}/copyright`);
  put(`${DOC}/third-party.txt`, thirdPartyText(bundled, readFileSync(runtime.license, "utf8")));
}
