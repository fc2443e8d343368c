import { until } from "./lab.ts";
import type { Lab } from "./lab.ts";

/** The values of a page of metrics, by the name of the series with its labels, as on the page. */
export type Series = ReadonlyMap<string, number>;

/** Sends text to a TCP port. @returns the whole answer; empty when no program listens there */
export async function talk(
  lab: Lab,
  netns: string | undefined,
  where: string,
  input: string,
): Promise<string> {
  const options = { input, check: false, ...(netns === undefined ? {} : { netns }) };
  return (await lab.exec(["socat", "-t10", "-", where], options)).stdout;
}

/** Sends an HTTP request from a namespace; undefined is the host itself. @returns status line, headers and body */
export function request(lab: Lab, where: string, line = "GET /metrics", netns?: string): Promise<string> {
  return talk(lab, netns, where, `${line} HTTP/1.1\r\nHost: kvmnatd\r\n\r\n`);
}

/** Waits for a whole page of metrics, requested from the host itself. @returns its text */
export async function scrapeText(lab: Lab, where = "TCP:127.0.0.1:9101"): Promise<string> {
  let answer = "";
  return until(
    () => `a page of metrics; the last answer was: ${answer.slice(0, 200)}`,
    async () => {
      answer = await request(lab, where);
      return answer.startsWith("HTTP/1.1 200 ") && answer.slice(answer.indexOf("\r\n\r\n") + 4);
    },
  );
}

export async function scrape(lab: Lab, where?: string): Promise<Series> {
  const lines = (await scrapeText(lab, where)).split("\n").filter((line) => line !== "" && line[0] !== "#");
  return new Map(
    lines.map((line) => {
      const end = line.lastIndexOf(" ");
      return [line.slice(0, end), Number(line.slice(end + 1))];
    }),
  );
}
