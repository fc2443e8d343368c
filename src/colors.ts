import pc from "picocolors";

export type Colors = ReturnType<typeof pc.createColors>;

/** Functions that colour a text, or that leave it alone. */
export function createColors(enabled: boolean): Colors {
  return pc.createColors(enabled);
}
