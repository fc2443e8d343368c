/** Why a value is invalid. The caller adds the place. */
export interface ParseError {
  /** Stable, kebab-case. */
  readonly code: string;
  readonly message: string;
}

/** What the parser of one value returns. */
export type ParseResult<T> = { readonly value: T } | { readonly fault: ParseError };

export function invalid(code: string, message: string): { readonly fault: ParseError } {
  return { fault: { code, message } };
}
