import { until } from "./lab.ts";
import type { Lab } from "./lab.ts";

/** What a scrape brought: the value of each series, by its name with labels as it stands there. */
export type Series = ReadonlyMap<string, number>;

/** Says something to a TCP port and returns all that comes back; empty where nobody listens. */
export async function talk(
  lab: Lab,
  netns: string | undefined,
  where: string,
  input: string,
): Promise<string> {
  const options = { input, check: false, ...(netns === undefined ? {} : { netns }) };
  return (await lab.exec(["socat", "-t10", "-", where], options)).stdout;
}

/** One HTTP request from a namespace; undefined is the host itself. @returns status line, headers and body */
export function request(lab: Lab, where: string, line = "GET /metrics", netns?: string): Promise<string> {
  return talk(lab, netns, where, `${line} HTTP/1.1\r\nHost: kvmnatd\r\n\r\n`);
}

/** The text of a scrape on the host itself, as soon as there is a whole one: what is missing in it is not there. */
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
