/** Lines as `conntrack -L` prints them. */
export const HOST = "192.168.1.100";
export const REMOTE = "198.51.100.2";

export interface Connection {
  readonly protocol?: "tcp" | "udp";
  readonly state?: string;
  readonly source?: string;
  readonly asked?: string;
  readonly port?: number;
  readonly answerer?: string;
  readonly answerPort?: number;
}

/** A client's connection; by default from {@link REMOTE} to udp port 5353 of the host, redirected to port 53 of a guest. */
export function line(connection: Connection): string {
  const { protocol = "udp", state, source = REMOTE, asked = HOST, port = 5353 } = connection;
  const { answerer = "192.168.122.11", answerPort = 53 } = connection;
  const head = `${protocol}      17 29 ${state === undefined ? "" : `${state} `}src=${source} dst=${asked} sport=40000 dport=${port}`;
  return `${head} src=${answerer} dst=${source} sport=${answerPort} dport=40000 [ASSURED] mark=0 use=1`;
}

export interface Reply {
  readonly to?: string;
  readonly clientPort?: number;
  readonly asked?: string;
  readonly port?: number;
}

/** The entry that a reply creates when there is none. @param from the server */
export function replyLine(from: string, reply: Reply = {}): string {
  const { to = REMOTE, clientPort = 40_000, asked = HOST, port = 5353 } = reply;
  return `udp      17 29 src=${from} dst=${to} sport=${port} dport=${clientPort} src=${to} dst=${asked} sport=${clientPort} dport=${port} mark=0 use=1`;
}
