import type { Diagnostic } from "../diagnostic.ts";
import type { Context } from "./context.ts";

/** @param text of the config in which they were found */
export async function printDiagnostics(
  { complain, color }: Context,
  diagnostics: readonly Diagnostic<string>[],
  text: string,
): Promise<void> {
  if (diagnostics.length === 0) return;
  // Only a diagnostic needs the package that draws code frames.
  const { formatDiagnostics } = await import("../config/code-frame.ts");
  complain(formatDiagnostics(diagnostics, text, { color }));
}
