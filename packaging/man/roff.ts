/** A part of a man page. */
export type Block =
  | { readonly kind: "section" | "subsection"; readonly title: string }
  | { readonly kind: "text"; readonly text: string }
  /** A term and its meaning, indented. */
  | { readonly kind: "term"; readonly term: string; readonly text: string }
  | { readonly kind: "example"; readonly text: string };

export interface Page {
  readonly name: string;
  readonly section: number;
  /** Name of the manual, in the middle of the header line. */
  readonly manual: string;
  readonly version: string;
  /** Date of the last change, such as `2026-11-24`. */
  readonly date: string;
  readonly blocks: readonly Block[];
}

/** Renders a page in groff's man macros (groff_man(7)). Text between backticks is bold. */
export function renderPage({ name, section, manual, version, date, blocks }: Page): string {
  const head = `.TH ${quote(name.toUpperCase())} ${section} ${quote(date)} ${quote(`kvmnatd ${version}`)} ${quote(manual)}`;
  // No hyphenation and no justification: readers copy commands and addresses.
  return `${[head, ".nh", ".ad l", ...blocks.flatMap(renderBlock)].join("\n")}\n`;
}

function renderBlock(block: Block): readonly string[] {
  switch (block.kind) {
    case "section":
      return [`.SH ${quote(block.title.toUpperCase())}`];
    case "subsection":
      return [`.SS ${quote(block.title)}`];
    case "text":
      return [".PP", ...renderText(block.text)];
    case "term":
      return [".TP", `\\fB${escape(block.term)}\\fR`, ...renderText(block.text)];
    case "example":
      return [".PP", ".RS 4", ".nf", ...block.text.split("\n").map(escapeLine), ".fi", ".RE"];
  }
}

function renderText(text: string): readonly string[] {
  const parts = text.replaceAll(/\s+/g, " ").trim().split("`");
  const marked = parts.map((part, at) => (at % 2 === 0 ? escape(part) : `\\fB${escape(part)}\\fR`)).join("");
  return [protect(marked)];
}

/** Escapes a text. A hyphen becomes a minus sign, so that a reader can paste a command into a shell. */
function escape(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll("'", "\\(aq")
    .replaceAll("^", "\\(ha")
    .replaceAll("~", "\\(ti");
}

function escapeLine(line: string): string {
  return protect(escape(line));
}

/** Protects a dot or quote at the start of a line, which would begin a macro. */
function protect(line: string): string {
  return /^[.']/.test(line) ? `\\&${line}` : line;
}

function quote(text: string): string {
  return `"${escape(text).replaceAll('"', "\\(dq")}"`;
}
