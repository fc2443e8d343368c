import { MESSAGE_CATALOG } from "./message-catalog.ts";

/** Maximum length of a line that fits on a terminal beside journalctl's indentation. */
const WIDTH = 76;

/** Renders the message catalogue in the format of systemd.io/CATALOG. */
export function renderCatalog(): string {
  const entries = Object.values(MESSAGE_CATALOG).map(({ id, subject, means, does, todo }) =>
    [
      `-- ${id}`,
      `Subject: ${subject}`,
      "Defined-By: kvmnatd",
      "Support: man:kvmnatd(8)",
      "Documentation: man:kvmnatd(8)",
      "Documentation: man:kvmnatd.yaml(5)",
      "",
      wrap(means),
      "",
      wrap(`What kvmnatd does: ${does}`),
      "",
      wrap(`What you can do: ${todo}`),
      "",
    ].join("\n"),
  );
  return `# The meaning of kvmnatd's log entries, shown by journalctl -x. Made from src/log/message-catalog.ts.\n\n${entries.join("\n")}`;
}

/** Breaks a text at blanks, but not within a command. */
function wrap(text: string): string {
  const words = text.match(/(?:`[^`]*`|[^\s`])+/g) ?? [];
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > WIDTH) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines.join("\n");
}
