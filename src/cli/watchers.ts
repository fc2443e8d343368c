import { resolve } from "node:path";
import type { Variant } from "../rules/ruleset.ts";
import type { Loop } from "../daemon/loop.ts";
import { nameLeaseFile } from "../host/files/lease-files.ts";
import { missingCapabilities } from "../host/exec/capabilities.ts";
import { watchFiles } from "../host/files/watch-files.ts";
import type { Host } from "../host-interface.ts";
import type { LocalHost } from "../host/create-host.ts";
import { LIBVIRT_NETWORKS } from "../paths.ts";
import type { Paths } from "../paths.ts";

type Hint = Loop["hint"];

/** Everything that tells of a change. */
export interface Watchers {
  /** The host, whose changes of the rules are known to be our own. */
  readonly host: Host;
  /** Why nobody tells of changes, with this variant of iptables; undefined when somebody does. */
  unheard(variant: Variant | undefined): string | undefined;
  /** Begins. */
  start(hint: Hint): Watching;
}

interface Watching {
  /** Never resolves; rejects with a bug of ours. */
  readonly failed: Promise<never>;
  /** Ends it all. */
  stop(): Promise<void>;
}

/** @param isCalm whether all was as it should be when it was looked at last */
export function createWatchers(local: LocalHost, paths: Paths, isCalm: () => boolean): Watchers {
  /** Absent: it is being started. */
  const runs: { links?: boolean; rules?: boolean } = {};
  let tell: Hint = () => undefined;
  const onState =
    (monitor: keyof typeof runs) =>
    (now: boolean): void => {
      // What happened until now may have been missed.
      if (runs[monitor] !== now) tell(`monitor of ${monitor} ${now ? "runs" : "has ended"}`);
      runs[monitor] = now;
    };
  let fileFault: string | undefined;
  const onFiles = (fault: string | undefined): void => {
    fileFault = fault;
    tell(fault === undefined ? "files are watched" : "files are not watched", "file");
  };
  const rules = local.createRuleMonitor(
    (family) => tell("ruleset changed", "rules", family),
    onState("rules"),
    isCalm,
  );
  return {
    host: {
      ...local,
      restoreRules: (tool, family, script) => {
        const restore = (): Promise<void> => local.restoreRules(tool, family, script);
        return tool.variant === "legacy" ? restore() : rules.expecting(script.ruleCount, restore);
      },
      runNft: (script) => rules.expecting(script.ruleCount, () => local.runNft(script)),
    },
    unheard: (variant) => {
      if (fileFault !== undefined) return fileFault;
      if (runs.links === false) return "`ip monitor` does not run";
      if (variant === "legacy") return "iptables-legacy tells nobody of a change";
      if (runs.rules !== false) return undefined;
      return missingCapabilities().includes("CAP_NET_ADMIN")
        ? "`nft monitor` may not listen, which takes root or CAP_NET_ADMIN"
        : "`nft monitor` (package nftables) does not run";
    },
    start: (hint) => {
      const stop = new AbortController();
      tell = hint;
      const config = resolve(paths.config);
      const stopFiles = watchFiles(
        { folders: [resolve(paths.dnsmasqDir), LIBVIRT_NETWORKS], file: config },
        (path) => hint(path === config ? "config" : nameOf(path), "file"),
        onFiles,
      );
      const monitors = [
        local.watchLinks(
          { onChange: () => hint("address or link changed", "file"), onState: onState("links") },
          stop.signal,
        ),
        rules.watch(stop.signal),
      ];
      return {
        failed: Promise.all(monitors).then(() => new Promise<never>(() => undefined)),
        stop: async () => {
          stop.abort();
          // A bug in a monitor is told by `failed`, and keeps nothing else from its end.
          await Promise.allSettled([stopFiles(), ...monitors]);
        },
      };
    },
  };
}

function nameOf(path: string): string {
  return path.startsWith(LIBVIRT_NETWORKS) ? "libvirt's networks" : nameLeaseFile(path);
}
