// Builds the installable packages into dist/packages; docs/packaging.md describes them.
//   npm run package [-- [--fast] [--version X.Y.Z] [--out FOLDER] [amd64] [arm64]]
// --fast compresses less (for tests). Without an architecture it builds the packages of all.
import { execFileSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { MACHINES, bringRuntime } from "./runtime.ts";
import type { Machine, Runtime } from "./runtime.ts";
import { generate, stage } from "./stage.ts";
import type { Taste } from "./stage.ts";

const FILES = "packaging/files";
const MAINTAINER = "kvmnatd maintainers <maintainers@kvmnatd.invalid>";

interface Job {
  readonly machine: Machine;
  readonly runtime: Runtime;
  /** In npm's format. */
  readonly version: string;
  readonly fast: boolean;
}

/** Reads a template and replaces each @NAME@. @throws on a name without a value */
function fill(file: string, values: Readonly<Record<string, string>>): string {
  const all = { ...values, LIFECYCLE: readFileSync(`${FILES}/lifecycle.sh`, "utf8").trim() };
  return readFileSync(`${FILES}/${file}`, "utf8").replaceAll(/@([A-Z_]+)@/g, (_, name: string) => {
    const value = all[name as keyof typeof all];
    if (value === undefined) throw new Error(`${file}: @${name}@ has no value`);
    return value;
  });
}

/** Makes a work folder with a folder `tree` that contains all files. */
function layOut(name: string, runtime: Runtime, taste: Taste): { work: string; tree: string } {
  const work = join(WORK, name);
  const tree = join(work, "tree");
  mkdirSync(join(tree, "usr/lib/kvmnatd"), { recursive: true });
  stage(tree, runtime, taste);
  return { work, tree };
}

/** Lists the files below a folder, relative to it, sorted. */
function listFiles(folder: string): readonly string[] {
  const all = readdirSync(folder, { recursive: true, encoding: "utf8" });
  return all.filter((each) => !statSync(join(folder, each)).isDirectory()).toSorted();
}

/** Converts a version: dpkg and rpm sort 1.0.0~rc.1 before 1.0.0. */
function distributionVersion(version: string): string {
  return version.replace("-", "~");
}

function buildDeb({ machine, runtime, version: npmVersion, fast }: Job): void {
  const version = distributionVersion(npmVersion);
  const { tree } = layOut(`deb-${machine.deb}`, runtime, { zsh: "usr/share/zsh/vendor-completions" });
  const put = (to: string, content: string | Uint8Array, mode = 0o644): void => {
    mkdirSync(join(tree, to, ".."), { recursive: true });
    writeFileSync(join(tree, to), content, { mode });
  };
  const changelog = `kvmnatd (${version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- ${MAINTAINER}  ${changeDate()}\n`;
  put("usr/share/doc/kvmnatd/changelog.gz", gzipSync(changelog, { level: 9 }));
  put("usr/share/lintian/overrides/kvmnatd", fill("deb/lintian-overrides", {}));
  const files = listFiles(tree);
  const md5 = execFileSync("md5sum", files, { cwd: tree });
  const bytes = files.reduce((sum, each) => sum + statSync(join(tree, each)).size, 0);
  const values = {
    VERSION: version,
    DEB_ARCH: machine.deb,
    MAINTAINER,
    INSTALLED_KB: `${Math.ceil(bytes / 1024)}`,
  };
  put("DEBIAN/control", fill("deb/control", values));
  put("DEBIAN/md5sums", md5);
  put("DEBIAN/conffiles", "/etc/kvmnatd.yaml\n");
  for (const script of ["postinst", "prerm", "postrm"])
    put(`DEBIAN/${script}`, fill(`deb/${script}`, {}), 0o755);
  const target = join(OUT, `kvmnatd_${version}_${machine.deb}.deb`);
  const compress = fast ? ["-Zgzip", "-z1"] : ["-Zxz", "-z6"];
  run("dpkg-deb", ["--root-owner-group", ...compress, "--build", tree, target]);
}

function buildRpm({ machine, runtime, version: npmVersion, fast }: Job): void {
  const version = distributionVersion(npmVersion);
  const { work, tree } = layOut(`rpm-${machine.rpm}`, runtime, { zsh: "usr/share/zsh/site-functions" });
  const files = [
    ...RPM_FOLDERS.map((folder) => `%dir "${folder}"`),
    ...listFiles(tree).map((file) => `${rpmKind(file)}"/${file}"`),
  ];
  const spec = join(work, "kvmnatd.spec");
  writeFileSync(
    spec,
    fill("rpm/kvmnatd.spec", { VERSION: version, MAINTAINER, STAGE: tree, FILES: files.join("\n") }),
  );
  const settings = [
    `_topdir ${work}/rpmbuild`,
    `_rpmdir ${work}`,
    "_rpmfilename %{name}-%{version}-%{release}.%{arch}.rpm",
    `_binary_payload ${fast ? "w1" : "w10"}T0.zstdio`,
    "use_source_date_epoch_as_buildtime 1",
    "clamp_mtime_to_source_date_epoch 1",
    "_buildhost kvmnatd",
  ].flatMap((each) => ["--define", each]);
  run("rpmbuild", ["-bb", "--quiet", "--target", `${machine.rpm}-linux`, ...settings, spec]);
  const name = `kvmnatd-${version}-1.${machine.rpm}.rpm`;
  cpSync(join(work, name), join(OUT, name), { preserveTimestamps: true });
}

/** Folders that belong to this package, some of them also to packages that may not be installed. */
const RPM_FOLDERS = [
  "/usr/share/fish",
  "/usr/share/fish/vendor_completions.d",
  "/usr/share/zsh",
  "/usr/share/zsh/site-functions",
  "/usr/lib/kvmnatd",
  "/usr/share/kvmnatd",
  "/usr/share/doc/kvmnatd",
  "/usr/share/doc/kvmnatd/docs",
  "/usr/share/doc/kvmnatd/docs/guides",
];

function rpmKind(file: string): string {
  if (file.startsWith("etc/")) return "%config(noreplace) ";
  return file.startsWith("usr/share/doc/") ? "%doc " : "";
}

function buildTarball({ machine, runtime, version, fast }: Job): void {
  const name = `kvmnatd-${version}-linux-${machine.node}`;
  const { work, tree } = layOut(name, runtime, { zsh: "usr/share/zsh/site-functions" });
  for (const script of ["install.sh", "uninstall.sh"])
    writeFileSync(join(tree, script), fill(`tarball/${script}`, {}), { mode: 0o755 });
  for (const text of ["README.md", "LICENSE"]) cpSync(text, join(tree, text));
  const owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", `--mtime=@${epoch}`];
  const compress = ["-I", `gzip -n ${fast ? "-1" : "-6"}`];
  const move = ["--transform", `s,^tree,${name},`];
  run("tar", ["-C", work, ...owner, ...compress, ...move, "-cf", join(OUT, `${name}.tar.gz`), "tree"]);
}

/** Time of the last commit. All files get it, so that the same sources make the same packages. */
function lastChange(): string {
  const given = process.env["SOURCE_DATE_EPOCH"];
  if (given !== undefined) return given;
  try {
    return execFileSync("git", ["log", "-1", "--format=%ct"], { encoding: "utf8", stdio: "pipe" }).trim();
  } catch {
    // Without a repository: the time of the source.
    return `${Math.floor(statSync("package.json").mtimeMs / 1000)}`;
  }
}

function changeDate(): string {
  return new Date(Number(epoch) * 1000).toUTCString().replace("GMT", "+0000");
}

function run(program: string, args: readonly string[]): void {
  execFileSync(program, args, {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, SOURCE_DATE_EPOCH: epoch },
  });
}

function readArguments() {
  try {
    const given = parseArgs({
      options: {
        fast: { type: "boolean", default: false },
        version: { type: "string", default: ownVersion },
        out: { type: "string", default: "dist/packages" },
      },
      allowPositionals: true,
    });
    const unknown = given.positionals.find((name) => !MACHINES.some(({ deb }) => deb === name));
    if (unknown !== undefined) throw new TypeError(`no machine ${unknown}`);
    return given;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    process.stderr.write(`${error.message}\n${USAGE}\n`);
    process.exit(64);
  }
}

const USAGE = `usage: npm run package [-- [--fast] [--version X.Y.Z] [--out FOLDER] [${MACHINES.map(({ deb }) => deb).join("] [")}]]`;
const epoch = lastChange();
const { version: ownVersion } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
const { values: options, positionals } = readArguments();

process.umask(0o022);
const OUT = resolve(options.out);
// In dist, like the runtime, so that a hard link to it can replace a copy.
const WORK = mkdtempSync(resolve("dist/packaging-"));
process.on("exit", () => rmSync(WORK, { recursive: true }));
mkdirSync(OUT, { recursive: true });
for (const each of readdirSync(OUT)) if (/^kvmnatd[-_]/.test(each)) rmSync(join(OUT, each));
generate();
for (const machine of MACHINES) {
  if (positionals.length > 0 && !positionals.includes(machine.deb)) continue;
  const job = { ...options, machine, runtime: bringRuntime(machine, "dist/runtime") };
  for (const build of [buildDeb, buildRpm, buildTarball]) build(job);
}
for (const each of readdirSync(OUT))
  process.stdout.write(
    `${join(options.out, each)}  ${(statSync(join(OUT, each)).size / 1e6).toFixed(1)} MB\n`,
  );
