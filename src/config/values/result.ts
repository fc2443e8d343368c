/** What is wrong with one value; whoever asked knows its place. */
export interface Fault {
  /** Stable, kebab-case. */
  readonly code: string;
  readonly message: string;
}

/** What the reader of one value gives. */
export type Reading<T> = { readonly value: T } | { readonly fault: Fault };

export function refuse(code: string, message: string): { readonly fault: Fault } {
  return { fault: { code, message } };
}
