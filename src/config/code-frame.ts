import { codeFrameColumns } from "@babel/code-frame";
import type { Diagnostic } from "../diagnostic.ts";
import { printable } from "../sanitize.ts";

/** Renders diagnostics like {@link formatDiagnostic}, one below the other. */
export function formatDiagnostics(
  diagnostics: readonly Diagnostic<string>[],
  sourceText: string,
  options: { readonly color: boolean },
): string {
  return diagnostics.map((each) => formatDiagnostic(each, sourceText, options)).join("\n");
}

/**
 * Renders a diagnostic for a terminal: `FILE:LINE:COL: message`, then the lines around it and a caret.
 * @param sourceText the text that the place is in; empty gives the first line only
 * @param options.color whether the frame may carry terminal colours
 */
export function formatDiagnostic(
  diagnostic: Diagnostic<string>,
  sourceText: string,
  options: { readonly color: boolean },
): string {
  const { file, line, column } = diagnostic.where ?? {};
  const place = [file, line, column].filter((part) => part !== undefined).join(":");
  const severity = diagnostic.severity === "warning" ? "warning: " : "";
  const head = `${printable(place, 4096)}: ${severity}${diagnostic.message}`;
  if (line === undefined || sourceText === "") return head;
  // The package's own highlighting is for JavaScript, where # and // have other meanings.
  const frame = codeFrameColumns(harmless(sourceText), { start: { line, column: (column ?? 1) - 1 } });
  return `${head}\n${options.color ? paint(frame) : frame}`;
}

/** Replaces characters that move a cursor or break a line outside YAML, one by one, so that columns stay correct. */
function harmless(text: string): string {
  return text
    .replace(/^\uFEFF/, "")
    .replaceAll("\r\n", "\n")
    .replace(/[\u2028\u2029]|(?![\n\t])[\p{Cc}\p{Cf}]/gu, "\uFFFD");
}

function paint(frame: string): string {
  return frame.replace(/^>|(?<=^ +\| *\t*[\t ]*)\^+$/gmu, "\u001B[1;31m$&\u001B[0m");
}
