/**
 * A sysctl as sysctl(8) names it: `net.ipv4.ip_forward`; with slashes where a bridge has a dot in its name.
 * @param path below /proc/sys
 */
export function sysctlName(path: string): string {
  return path.includes(".") ? path : path.replaceAll("/", ".");
}
