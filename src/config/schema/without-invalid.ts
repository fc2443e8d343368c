import type { Path } from "../yaml/tree.ts";

/** A value whose invalid parts are undefined. */
export type ValidSubset<T> =
  T extends ReadonlyArray<infer Item>
    ? ReadonlyArray<ValidSubset<Item> | undefined>
    : T extends object
      ? { readonly [Key in keyof T]?: ValidSubset<T[Key]> | undefined }
      : T;

/**
 * Copies a value without the parts at the invalid paths, so that the rest can be checked too.
 * Their keys stay, with undefined: "written, but invalid" is not "not written".
 */
export function withoutInvalid(value: unknown, faulty: readonly Path[]): unknown {
  if (faulty.some((path) => path.length === 0)) return undefined;
  if (faulty.length === 0 || typeof value !== "object" || value === null) return value;
  const copy: Record<string, unknown> | unknown[] = Array.isArray(value)
    ? [...(value as unknown[])]
    : { ...value };
  const byStep = Map.groupBy(faulty, ([step]) => String(step));
  for (const [step, paths] of byStep) {
    if (!Object.hasOwn(copy, step)) continue;
    const member = (copy as Record<string, unknown>)[step];
    (copy as Record<string, unknown>)[step] = withoutInvalid(
      member,
      paths.map((path) => path.slice(1)),
    );
  }
  return copy;
}
