import type { RolldownOptions } from "rolldown";

// What chokidar needs; package.json's engines say the same.
const OLDEST = "22.22";

/** One file that runs alone. Its first lines run before all others: an old Node would fail later with riddles. */
const BANNER = `#!/usr/bin/env -S node --max-semi-space-size=2
{
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < ${OLDEST.split(".")[0]} || (major === ${OLDEST.split(".")[0]} && minor < ${OLDEST.split(".")[1]})) {
    console.error("kvmnatd: needs Node.js ${OLDEST} or newer, this is " + process.versions.node + " (" + process.execPath + ")");
    process.exit(1);
  }
}`;

const options: RolldownOptions = {
  input: "src/main.ts",
  platform: "node",
  logLevel: "warn",
  output: { file: "dist/kvmnatd.js", format: "esm", banner: BANNER },
};

export default options;
