import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import { formatEndpoint } from "../../config/values/endpoint.ts";
import type { Endpoint } from "../../config/values/endpoint.ts";
import { errnoOf } from "../../errors.ts";

const PATH = "/metrics";
/** Maximum number of connections. Prometheus needs one; others must not take more memory. */
const MAX_CONNECTIONS = 32;
const LIMITS = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 5000,
  connectionsCheckingInterval: 1000,
};
/** Timeout for a client that does not read its answer. */
const IDLE_MS = 10_000;
/** Interval between attempts to listen. */
const RETRY_MS = 2000;

export interface Page {
  readonly contentType: string;
  readonly text: string;
}

export interface MetricsServer {
  /** Listens there from now on, and nowhere else; undefined: nowhere. Retries until it works. */
  listenAt(endpoint: Endpoint | undefined): void;
  /** Ends it. */
  stop(): Promise<void>;
}

/** Where it listens, or why it does not. */
export type Listening = { readonly at: Endpoint } | { readonly problem: string } | undefined;

/**
 * Serves one page over HTTP.
 * @param makePage called for each request
 * @param onState called when it begins to listen, when it ends, and each time that it cannot
 */
export function createMetricsServer(
  makePage: () => Promise<Page>,
  onState: (state: Listening) => void,
): MetricsServer {
  const handler = createHandler(makePage);
  let wanted: Endpoint | undefined;
  let turn: Promise<void> = Promise.resolve();
  let end: () => Promise<void> = async () => undefined;

  function listenAt(endpoint: Endpoint | undefined): void {
    if (endpoint?.host === wanted?.host && endpoint?.port === wanted?.port) return;
    wanted = endpoint;
    turn = turn.then(() => change(endpoint));
  }

  async function change(endpoint: Endpoint | undefined): Promise<void> {
    await end();
    if (endpoint === undefined) onState(undefined);
    end = endpoint === undefined ? async () => undefined : listenWithRetry(endpoint, handler, onState);
  }

  return {
    listenAt,
    stop: async () => {
      listenAt(undefined);
      await turn;
    },
  };
}

/** Listens at an address; begins again after an error. @returns what ends it */
function listenWithRetry(
  at: Endpoint,
  handler: RequestListener,
  onState: (state: Listening) => void,
): () => Promise<void> {
  let server: Server | undefined;
  let retry: NodeJS.Timeout | undefined;
  let isEnded = false;

  async function listen(): Promise<void> {
    if (server !== undefined) await close(server);
    server = undefined;
    try {
      server = await open(at, handler);
      server.on("error", fail);
      onState({ at });
    } catch (error) {
      fail(error);
    }
  }

  function fail(error: unknown): void {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    onState({ problem: describeFault(at, code) });
    clearTimeout(retry);
    if (!isEnded) retry = setTimeout(listenAgain, RETRY_MS).unref();
  }

  function listenAgain(): void {
    turn = turn.then(listen);
  }

  let turn = listen();
  return async () => {
    isEnded = true;
    clearTimeout(retry);
    await turn;
    if (server !== undefined) await close(server);
  };
}

async function open({ host, port }: Endpoint, handler: RequestListener): Promise<Server> {
  // Loaded only here: node:http takes 80 ms and 16 MB.
  const { createServer } = await import("node:http");
  const server = createServer(LIMITS, handler);
  server.maxConnections = MAX_CONNECTIONS;
  server.setTimeout(IDLE_MS);
  await new Promise<void>((done, failed) => {
    server.once("error", failed);
    server.listen({ host, port }, done);
  });
  server.removeAllListeners("error");
  return server;
}

async function close(server: Server): Promise<void> {
  const closed = new Promise((done) => server.close(done));
  server.closeAllConnections();
  await closed;
}

function createHandler(makePage: () => Promise<Page>): RequestListener {
  const serve = async ({ method, url }: IncomingMessage, response: ServerResponse): Promise<void> => {
    // One request per connection: a client that scrapes every 15 s needs no open one, and others must not keep it.
    response.setHeader("Connection", "close");
    if (url?.split("?")[0] !== PATH) return answer(response, 404, `the only page is ${PATH}\n`);
    if (method !== "GET") {
      response.setHeader("Allow", "GET");
      return answer(response, 405, "the only method is GET\n");
    }
    const { contentType, text } = await makePage();
    return answer(response, 200, text, contentType);
  };
  return (request, response) => void serve(request, response);
}

function answer(
  response: ServerResponse,
  status: number,
  text: string,
  contentType = "text/plain; charset=utf-8",
): void {
  response.writeHead(status, { "Content-Type": contentType, "Content-Length": Buffer.byteLength(text) });
  response.end(text);
}

function describeFault(at: Endpoint, code: string): string {
  const where = `metrics cannot be served at ${formatEndpoint(at)}`;
  return `${where}: ${(FAULTS[code] ?? (() => code))(at.port)}; forwards work; kvmnatd retries every 2 s`;
}

const FAULTS: Readonly<Record<string, (port: number) => string>> = {
  EADDRINUSE: (port) =>
    `another program listens there (\`ss -ltnp sport = :${port}\` names it); stop it, or set another port at metrics in the config`,
  EADDRNOTAVAIL: () =>
    "the address is not on this host (yet); add it, or set another at metrics in the config",
  EACCES: () => "permission denied; set a port above 1023 at metrics in the config",
};
