import type { Plugin, RolldownOptions } from "rolldown";

// The minimum version of chokidar; `engines` in package.json repeats it.
const OLDEST = "22.22";

/** First lines of the bundle. They run before all others, because an old Node.js would fail later with an obscure error. */
const BANNER = `#!/usr/bin/env -S node --max-semi-space-size=2
{
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < ${OLDEST.split(".")[0]} || (major === ${OLDEST.split(".")[0]} && minor < ${OLDEST.split(".")[1]})) {
    console.error("kvmnatd: needs Node.js ${OLDEST} or newer, this is " + process.versions.node + " (" + process.execPath + ")");
    process.exit(1);
  }
}`;

/** Lists the npm packages in the bundle, by folder, because their licenses go with it (third-party.ts). */
const listPackages: Plugin = {
  name: "list-packages",
  generateBundle(_options, files) {
    const modules = Object.values(files).flatMap((file) => (file.type === "chunk" ? file.moduleIds : []));
    const folders = modules.flatMap((id) => /.*\bnode_modules\/(?:@[^/]+\/)?[^/]+/.exec(id)?.[0] ?? []);
    const source = JSON.stringify([...new Set(folders)].toSorted());
    this.emitFile({ type: "asset", fileName: "bundled-packages.json", source });
  },
};

const options: RolldownOptions = {
  input: "src/main.ts",
  platform: "node",
  logLevel: "warn",
  plugins: [listPackages],
  // Code behind import() stays in the same file, and does not run before.
  output: { file: "dist/kvmnatd.js", format: "esm", banner: BANNER, codeSplitting: false },
};

export default options;
