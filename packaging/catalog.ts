// Writes dist/kvmnatd.catalog, the message catalogue for journalctl -x.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { renderCatalog } from "../src/log/render-catalog.ts";

const dist = join(import.meta.dirname, "../dist");
mkdirSync(dist, { recursive: true });
writeFileSync(join(dist, "kvmnatd.catalog"), renderCatalog());
