import { resolve } from "node:path";
import type { Loop } from "../daemon/loop.ts";
import type { LocalHost } from "../host/create-host.ts";
import { missingCapabilities } from "../host/exec/capabilities.ts";
import { nameLeaseFile } from "../host/files/lease-files.ts";
import { watchFiles } from "../host/files/watch-files.ts";
import { LIBVIRT_NETWORKS } from "../paths.ts";
import type { Paths } from "../paths.ts";
import type { Variant } from "../rules/ruleset.ts";

type Hint = Loop["hint"];

/** Everything that reports a change. */
export interface Watchers {
  /** Why changes may be missed with this variant of iptables; undefined when all are reported. */
  changeDetectionProblem(variant: Variant | undefined): string | undefined;
  start(hint: Hint): Watching;
}

interface Watching {
  /** Never resolves; rejects with a bug of ours. */
  readonly failed: Promise<never>;
  /** Ends all watchers. */
  stop(): Promise<void>;
}

export function createWatchers(host: LocalHost, paths: Paths): Watchers {
  const health = changeDetection();
  return {
    changeDetectionProblem: (variant) => health.problem(variant),
    start: (hint) => {
      const stop = new AbortController();
      const onMonitorState = (monitor: Monitor) => (listens: boolean) => {
        // Changes until now may have been missed.
        if (health.monitorChanged(monitor, listens))
          hint(`monitor of ${monitor} ${listens ? "runs" : "has ended"}`);
      };
      const stopFiles = startFileWatch(paths, hint, health);
      const monitors = [
        host.watchLinks(
          { onChange: () => hint("address or link changed", "file"), onState: onMonitorState("links") },
          stop.signal,
        ),
        host.watchRules(
          {
            onChange: (family) => hint("ruleset changed", "rules", family),
            onState: onMonitorState("rules"),
          },
          stop.signal,
        ),
      ];
      return {
        failed: Promise.all(monitors).then(() => new Promise<never>(() => undefined)),
        stop: async () => {
          stop.abort();
          // A bug in a monitor is reported by `failed`, and must not keep the others from their end.
          await Promise.allSettled([stopFiles(), ...monitors]);
        },
      };
    },
  };
}

function startFileWatch(paths: Paths, hint: Hint, health: ChangeDetection): () => Promise<void> {
  const config = resolve(paths.config);
  return watchFiles(
    { folders: [resolve(paths.dnsmasqDir), LIBVIRT_NETWORKS], file: config },
    {
      onChange: (path) => hint(path === config ? "config" : describePath(path), "file"),
      onState: (problem) => {
        health.filesChanged(problem);
        hint(problem === undefined ? "files are watched" : "files are not watched", "file");
      },
    },
  );
}

function describePath(path: string): string {
  return path.startsWith(LIBVIRT_NETWORKS) ? "libvirt's networks" : nameLeaseFile(path);
}

type Monitor = "links" | "rules";

/** Whether changes are reported. */
interface ChangeDetection {
  /** @returns whether that is new */
  monitorChanged(monitor: Monitor, listens: boolean): boolean;
  filesChanged(problem: string | undefined): void;
  problem(variant: Variant | undefined): string | undefined;
}

function changeDetection(): ChangeDetection {
  /** Undefined: the monitor is being started. */
  const listening: Record<Monitor, boolean | undefined> = { links: undefined, rules: undefined };
  let fileProblem: string | undefined;
  return {
    monitorChanged: (monitor, listens) => {
      const isNew = listening[monitor] !== listens;
      listening[monitor] = listens;
      return isNew;
    },
    filesChanged: (problem) => {
      fileProblem = problem;
    },
    problem: (variant) => {
      if (fileProblem !== undefined) return fileProblem;
      if (listening.links === false) return "`ip monitor` does not run";
      if (variant === "legacy") return "iptables-legacy reports no changes";
      if (listening.rules !== false) return undefined;
      return missingCapabilities().includes("CAP_NET_ADMIN")
        ? "`nft monitor` may not listen, which takes root or CAP_NET_ADMIN"
        : "`nft monitor` (package nftables) does not run";
    },
  };
}
