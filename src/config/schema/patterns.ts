/*
 * Patterns that an editor checks while the admin types. They are never narrower than the parsers, which have better
 * messages: parse-port-map.ts rejects what these accept wrongly (reversed ranges, ports above 65535 as text).
 */
const PORT = "([0-9]+|0[xX][0-9a-fA-F]+)";
const RANGE = `${PORT}(-${PORT})?`;
const HOST_IP = "([0-9.]+|\\[[0-9a-fA-F:.]+\\]):";

/** A port or a range of them. */
export const RANGE_PATTERN: string = `^${RANGE}$`;
/** The short form of a port. */
export const PORT_PATTERN: string = `^(${HOST_IP})?${RANGE}:${RANGE}(/(tcp|udp|sctp|both))?$`;
export const MAC_PATTERN: string = "^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$";
export const DURATION_PATTERN: string = "^(0+|[0-9]{1,9}(ms|s|m|h))$";
/** Where a service listens. */
export const ENDPOINT_PATTERN: string = `^((localhost|[0-9.]*|\\[[0-9a-fA-F:.]+\\]):)?${PORT}$`;
