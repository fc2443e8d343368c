import { describe, expect, it } from "vitest";
import { formatDiagnostic } from "../../../src/config/code-frame.ts";
import type { Diagnostic } from "../../../src/diagnostic.ts";

const plain = { color: false };

function issue(
  line?: number,
  column?: number,
  severity: Diagnostic<string>["severity"] = "error",
): Diagnostic<string> {
  const where = {
    file: "c.yaml",
    ...(line === undefined ? {} : { line }),
    ...(column === undefined ? {} : { column }),
  };
  return { code: "x", message: "it is wrong", where, severity };
}

describe("an issue", () => {
  it("is shown with place, lines and caret", () => {
    expect(formatDiagnostic(issue(2, 6), "a: 1\nb: [2]\nc: 3\n", plain)).toBe(
      ["c.yaml:2:6: it is wrong", "  1 | a: 1", "> 2 | b: [2]", "    |      ^", "  3 | c: 3", "  4 |"].join(
        "\n",
      ),
    );
  });

  it("in the first column has its caret there", () => {
    expect(formatDiagnostic(issue(1, 1), "a: 1", plain)).toBe("c.yaml:1:1: it is wrong\n> 1 | a: 1\n    | ^");
  });

  it("of a whole file has no frame", () => {
    expect(formatDiagnostic(issue(), "a: 1\n", plain)).toBe("c.yaml: it is wrong");
  });

  it("without source has no frame", () => {
    expect(formatDiagnostic(issue(1, 1), "", plain)).toBe("c.yaml:1:1: it is wrong");
  });

  it("of a warning contains the word warning", () => {
    expect(formatDiagnostic(issue(1, 1, "warning"), "", plain)).toBe("c.yaml:1:1: warning: it is wrong");
  });

  it("keeps its column after tabs, CRLF and a BOM", () => {
    const frame = formatDiagnostic(issue(2, 3), "\uFEFFa: 1\r\n\t\tb: 2\r\n", plain);
    expect(frame).toContain("> 2 | \t\tb: 2\n    | \t\t^");
    expect(frame).not.toContain("\r");
    expect(frame).toContain("  1 | a: 1");
  });

  it("shows characters that act on a terminal as replacements, and keeps the lines in step", () => {
    const frame = formatDiagnostic(issue(2, 1), "a: \u001B[2J\u2028x\nb: 2\n", plain);
    expect(frame).toContain("  1 | a: \uFFFD[2J\uFFFDx\n> 2 | b: 2");
  });

  it("colours the marks alone", () => {
    const coloured = formatDiagnostic(issue(1, 4), "a: ^b # it's // no script\n", { color: true });
    expect(coloured.split("\u001B[1;31m")).toHaveLength(3);
    // oxlint-disable-next-line no-control-regex -- these are what is looked for
    expect(coloured.replace(/\u001B\[[\d;]*m/g, "")).toBe(
      formatDiagnostic(issue(1, 4), "a: ^b # it's // no script\n", plain),
    );
    expect(coloured).toContain("\u001B[1;31m>\u001B[0m 1 | a: ^b # it's // no script\n");
  });
});
