import { stripVTControlCharacters } from "node:util";
import { realpathSync } from "node:fs";
import { createStyle } from "./cli/style.ts";
import { describeCommands, parseArguments } from "./cli/arguments.ts";
import type { Invocation } from "./cli/arguments.ts";
import { apply } from "./cli/apply.ts";
import { sendRequest } from "./cli/request.ts";
import { check, printDiagnostics } from "./cli/check.ts";
import type { Context } from "./cli/context.ts";
import { history } from "./cli/history.ts";
import { leases } from "./cli/leases.ts";
import { plan } from "./cli/plan.ts";
import { run } from "./cli/run.ts";
import { status } from "./cli/status.ts";
import { showLiveStatus } from "./cli/live-status.ts";
import { teardown } from "./cli/teardown.ts";
import { completionScript } from "./cli/completion.ts";
import { configJsonSchema } from "./config/schema/schema.ts";
import { runDemo } from "./demo/demo.ts";
import { ConfigError, EXIT, KvmnatdError } from "./errors.ts";
import { runtimeFolder } from "./host/files/status-file.ts";
import { statusJsonSchema } from "./status/schema.ts";

/**
 * SIGTERM and SIGINT end whatever runs. The listener stays: signal-exit (in execa) kills the process by the same
 * signal as soon as no other listener is left.
 */
function listenForSignals(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => controller.abort(name));
  return controller.signal;
}

function createContext(invocation: Invocation): Context {
  const { config, dnsmasqDir, json } = invocation;
  const env = process.env;
  const color = process.stdout.isTTY && env["NO_COLOR"] === undefined && env["TERM"] !== "dumb";
  return {
    paths: { config, dnsmasqDir, runtimeDir: runtimeFolder(env) },
    json,
    color,
    style: createStyle(color),
    print: (text) => void process.stdout.write(`${text}\n`),
    complain: (text) =>
      void process.stderr.write(`${process.stderr.isTTY ? text : stripVTControlCharacters(text)}\n`),
  };
}

const SCHEMAS = { config: configJsonSchema, status: statusJsonSchema } as const;

async function execute({ request }: Invocation, context: Context): Promise<number> {
  switch (request.command) {
    case "run":
      return run(context, listenForSignals());
    case "check":
      return check(context);
    case "plan":
      return plan(context);
    case "apply":
      return apply(context);
    case "status":
      return request.watch ? showLiveStatus(context, listenForSignals()) : status(context);
    case "leases":
      return leases(context);
    case "history":
      return history(context, request.options);
    case "teardown":
      return teardown(context);
    case "reload":
    case "handover":
      return sendRequest(context, request.command);
    case "demo":
      return runDemo({
        selfCommand: [process.execPath, realpathSync(process.argv[1] ?? "")],
        color: context.color,
        write: (text) => void process.stdout.write(text),
        signal: listenForSignals(),
      });
    case "schema":
      context.print(JSON.stringify(SCHEMAS[request.subject](), undefined, 2));
      return EXIT.ok;
    case "completion":
      context.print(completionScript(request.shell, describeCommands()));
      return EXIT.ok;
  }
}

function explainFailure(error: unknown, context: Context): number {
  if (error instanceof ConfigError) {
    printDiagnostics(context, error.diagnostics, error.source);
    context.complain("kvmnatd: the config cannot be used; nothing was changed");
    return EXIT.config;
  }
  if (error instanceof KvmnatdError) {
    context.complain(`kvmnatd: ${error.message}`);
    return EXIT.failed;
  }
  context.complain(
    `kvmnatd: this is a bug, please report it: ${error instanceof Error ? error.stack : String(error)}`,
  );
  return EXIT.bug;
}

async function main(): Promise<number> {
  const invocation = parseArguments(process.argv.slice(2));
  if ("exitCode" in invocation) return invocation.exitCode;
  const context = createContext(invocation);
  // A bug in code that no caller awaits.
  process.on("uncaughtException", (error) => process.exit(explainFailure(error, context)));
  try {
    return await execute(invocation, context);
  } catch (error) {
    return explainFailure(error, context);
  }
}

let lost: string | undefined;
for (const stream of [process.stdout, process.stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => {
    // A reader that closed its end (`kvmnatd status | head -1`) is not an error; a closed terminal is not one either.
    if (error.code !== "EPIPE" && error.code !== "EIO") lost ??= error.message;
  });
const exitCode = await main();
// What is written to a pipe is written later; process.exit does not wait for it.
for (const stream of [process.stdout, process.stderr])
  await new Promise((written) => stream.write("", written));
if (lost !== undefined)
  await new Promise((written) => process.stderr.write(`kvmnatd: output is lost: ${lost}\n`, written));
process.exit(lost !== undefined && exitCode === EXIT.ok ? EXIT.failed : exitCode);
