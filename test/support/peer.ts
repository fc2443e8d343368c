// Runs in a namespace of a lab: a server that answers with its name and the client's address, or a client that prints it.
//   peer.ts serve NAME tcp:22 udp:53 late:53 stream:80 ...
//                                late is udp that answers five times, the last time after 600 ms; stream is tcp that never pauses
//   peer.ts ask tcp|udp HOST PORT [SOURCE]
//   peer.ts asks                 the same for each line `NUMBER PROTOCOL HOST PORT [SOURCE]` of stdin, each with a socket
//                                of its own; prints `NUMBER ANSWER`
//   peer.ts probe                asks by tcp for each line `NUMBER HOST PORT SOURCE` of stdin, at once; prints `NUMBER ANSWER`
//   peer.ts send HOST PORT       asks by udp, from one socket, every 20 ms; prints each answer
//   peer.ts load HOST PORT       reads a stream; prints every 100 ms that more has come
//   peer.ts hold HOST PORT       an open TCP connection: echoes each line of stdin through the server
import { createSocket } from "node:dgram";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";

/** Long enough for one lost packet on a busy machine; ICMP rejects are rate-limited, so that some never come. */
const DEADLINE_MS = 2000;

const plain = (address: string | undefined): string => (address ?? "").replace("::ffff:", "");

function serveTcp(name: string, port: number): void {
  createServer((socket) => {
    socket.on("error", () => undefined);
    socket.write(`${name} ${port} ${plain(socket.remoteAddress)}\n`);
    socket.on("data", (data) => socket.write(data));
  }).listen(port, "::", () => process.stdout.write(`listening tcp ${port}\n`));
}

function serveUdp(name: string, port: number): void {
  const socket = createSocket({ type: "udp6" });
  socket.on("message", (_data, from) =>
    socket.send(`${name} ${port} ${plain(from.address)}`, from.port, from.address),
  );
  socket.bind(port, "::", () => process.stdout.write(`listening udp ${port}\n`));
}

function serveLate(name: string, port: number): void {
  const socket = createSocket({ type: "udp6" });
  socket.on("message", (_data, from) => {
    for (let turn = 0; turn < 5; turn += 1)
      setTimeout(
        () => socket.send(`${name} ${port} ${plain(from.address)}`, from.port, from.address),
        turn * 150,
      );
  });
  socket.bind(port, "::", () => process.stdout.write(`listening late ${port}\n`));
}

function serveStream(port: number): void {
  const chunk = Buffer.alloc(16_384);
  createServer((socket) => {
    socket.on("error", () => undefined);
    const more = (): void => {
      while (socket.write(chunk));
    };
    socket.on("drain", more);
    more();
  }).listen(port, "::", () => process.stdout.write(`listening stream ${port}\n`));
}

function finish(answer: string): never {
  process.stdout.write(`${answer.trim()}\n`);
  process.exit(0);
}

/** @returns what the server answered, or `denied`: refused, rejected and silent are all the same */
function ask(protocol: string, host: string, port: number, source: string | undefined): Promise<string> {
  return new Promise((resolve) => {
    const client = (protocol === "udp" ? askUdp : askTcp)(host, port, source);
    const end = (answer: string): void => {
      clearTimeout(timer);
      client.close();
      resolve(answer.trim());
    };
    const timer = setTimeout(() => end("denied"), DEADLINE_MS);
    client.start(end);
  });
}

interface Client {
  start(end: (answer: string) => void): void;
  close(): void;
}

function askTcp(host: string, port: number, source: string | undefined): Client {
  const socket = connect({ host, port, ...(source === undefined ? {} : { localAddress: source }) });
  return {
    start: (end) => socket.on("error", () => end("denied")).on("data", (data) => end(data.toString())),
    close: () => socket.destroy(),
  };
}

function askUdp(host: string, port: number, source: string | undefined): Client {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  const send = (): void => socket.send("?", port, host, () => undefined);
  return {
    start: (end) => {
      socket.once("error", () => end("denied")).once("message", (data) => end(data.toString()));
      if (source === undefined) send();
      else socket.bind(0, source, send);
    },
    close: () => socket.removeAllListeners().close(),
  };
}

function askOn(): void {
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [number, protocol = "", host = "", port, source] = line.split(" ");
    void ask(protocol, host, Number(port), source).then((answer) =>
      process.stdout.write(`${number} ${answer}\n`),
    );
  });
}

function hold(host: string, port: number): void {
  const socket = connect({ host, port });
  socket.on("error", (error) => finish(`broken ${error.message}`));
  socket.on("data", (data) => process.stdout.write(data));
  createInterface({ input: process.stdin }).on("line", (line) => socket.write(`${line}\n`));
}

function load(host: string, port: number): void {
  const socket = connect({ host, port });
  let more = false;
  socket.on("error", (error) => finish(`broken ${error.message}`));
  socket.on("data", () => (more = true));
  setInterval(() => {
    if (more) process.stdout.write("more\n");
    more = false;
  }, 100);
}

function sendOn(host: string, port: number): void {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  socket.on("error", () => undefined);
  socket.on("message", (data) => process.stdout.write(`${data.toString()}\n`));
  setInterval(() => socket.send("?", port, host, () => undefined), 20);
}

/** Refused, rejected or silent: all the same. */
function knock(host: string, port: number, localAddress: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, localAddress });
    const end = (answer: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer.trim());
    };
    const timer = setTimeout(() => end("denied"), 500);
    socket.on("error", () => end("denied"));
    socket.on("data", (data) => end(data.toString()));
  });
}

function probe(): void {
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [number, host = "", port, source = ""] = line.split(" ");
    void knock(host, Number(port), source).then((answer) => process.stdout.write(`${number} ${answer}\n`));
  });
}

const SERVERS = {
  tcp: serveTcp,
  udp: serveUdp,
  late: serveLate,
  stream: (_name: string, port: number) => serveStream(port),
};

const [mode, ...args] = process.argv.slice(2);
if (mode === "serve") {
  const [name = "", ...ports] = args;
  for (const each of ports) {
    const [protocol, port] = each.split(":");
    SERVERS[protocol as keyof typeof SERVERS](name, Number(port));
  }
} else if (mode === "probe") {
  probe();
} else if (mode === "send") {
  sendOn(args[0] ?? "", Number(args[1]));
} else if (mode === "load") {
  load(args[0] ?? "", Number(args[1]));
} else if (mode === "hold") {
  hold(args[0] ?? "", Number(args[1]));
} else if (mode === "asks") {
  askOn();
} else {
  const [protocol = "", host = "", port, source] = args;
  void ask(protocol, host, Number(port), source).then(finish);
}
