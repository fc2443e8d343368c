import type { Path } from "../yaml/tree.ts";

/** A value whose parts may be missing because they were found faulty. */
export type ValidSubset<T> =
  T extends ReadonlyArray<infer Item>
    ? ReadonlyArray<ValidSubset<Item> | undefined>
    : T extends object
      ? { readonly [Key in keyof T]?: ValidSubset<T[Key]> | undefined }
      : T;

/**
 * Copies a value without the parts at the faulty paths, so that the rest can be checked as well.
 * Their keys stay, with undefined: "written, but unusable" is not "not written".
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
