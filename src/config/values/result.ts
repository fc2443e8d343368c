/** An error in one value; the caller knows its location. */
export interface ParseError {
  /** Stable, kebab-case. */
  readonly code: string;
  readonly message: string;
}

/** What the reader of one value gives. */
export type ParseResult<T> = { readonly value: T } | { readonly fault: ParseError };

export function invalid(code: string, message: string): { readonly fault: ParseError } {
  return { fault: { code, message } };
}
