import { stripVTControlCharacters } from "node:util";
import { realpathSync } from "node:fs";
import { createStyle } from "./cli/style.ts";
import { describeCommands, parseArguments } from "./cli/arguments.ts";
import type { Invocation } from "./cli/arguments.ts";
import type { Context } from "./cli/context.ts";
import { printDiagnostics } from "./cli/print-diagnostics.ts";
import { ConfigError, EXIT, KvmnatdError } from "./errors.ts";
import { runtimeFolder } from "./host/files/status-file.ts";

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

/** Loads the code of a command and runs it. Most commands need half of the time that loading all code would take. */
async function execute({ request }: Invocation, context: Context): Promise<number> {
  switch (request.command) {
    case "run":
      return (await import("./cli/run.ts")).run(context, listenForSignals());
    case "check":
      return (await import("./cli/check.ts")).check(context);
    case "plan":
      return (await import("./cli/plan.ts")).plan(context);
    case "apply":
      return (await import("./cli/apply.ts")).apply(context);
    case "status":
      return request.watch
        ? (await import("./cli/live-status.ts")).showLiveStatus(context, listenForSignals())
        : (await import("./cli/status.ts")).status(context);
    case "leases":
      return (await import("./cli/leases.ts")).leases(context);
    case "history":
      return (await import("./cli/history.ts")).history(context, request.options);
    case "teardown":
      return (await import("./cli/teardown.ts")).teardown(context);
    case "reload":
    case "handover":
      return (await import("./cli/request.ts")).sendRequest(context, request.command);
    case "demo":
      return demo(context);
    case "schema":
      return printSchema(context, request.subject);
    case "completion": {
      const { completionScript } = await import("./cli/completion.ts");
      context.print(completionScript(request.shell, describeCommands()));
      return EXIT.ok;
    }
  }
}

async function demo({ color }: Context): Promise<number> {
  const { runDemo } = await import("./demo/demo.ts");
  return runDemo({
    selfCommand: [process.execPath, realpathSync(process.argv[1] ?? "")],
    color,
    write: (text) => void process.stdout.write(text),
    signal: listenForSignals(),
  });
}

async function printSchema(context: Context, subject: "config" | "status"): Promise<number> {
  const schema =
    subject === "config"
      ? (await import("./config/schema/schema.ts")).configJsonSchema()
      : (await import("./status/schema.ts")).statusJsonSchema();
  context.print(JSON.stringify(schema, undefined, 2));
  return EXIT.ok;
}

async function explainConfigError({ diagnostics, source }: ConfigError, context: Context): Promise<number> {
  await printDiagnostics(context, diagnostics, source);
  context.complain("kvmnatd: the config cannot be used; nothing was changed");
  return EXIT.config;
}

function explainFailure(error: unknown, context: Context): number {
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
    return error instanceof ConfigError
      ? await explainConfigError(error, context)
      : explainFailure(error, context);
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
