/**
 * @param textOf the same text for equal keys
 * @returns the same function, which computes the value of each key once
 */
export function memoize<Key, Value>(
  find: (key: Key) => Value,
  textOf: (key: Key) => string = String,
): (key: Key) => Value {
  const known = new Map<string, { readonly value: Value }>();
  return (key) => {
    const text = textOf(key);
    const found = known.get(text) ?? { value: find(key) };
    known.set(text, found);
    return found.value;
  };
}
