/** @returns one value of each key: the last one, at the place of the first */
export function distinctBy<Value>(
  values: readonly Value[],
  keyOf: (value: Value) => string,
): readonly Value[] {
  return [...new Map(values.map((value) => [keyOf(value), value])).values()];
}
