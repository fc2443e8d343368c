import { readFileSync } from "node:fs";
import { configJsonSchema } from "../../src/config/schema/schema.ts";
import type { Block } from "./roff.ts";

interface Schema {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: Schema | boolean;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly enum?: readonly string[];
}

/** Builds kvmnatd.yaml(5) from the schema that validates the config. @param example the commented config */
export function configPage(example: URL): readonly Block[] {
  const schema = configJsonSchema() as Schema;
  return [
    { kind: "section", title: "Name" },
    { kind: "text", text: "kvmnatd.yaml - the port map of kvmnatd" },
    { kind: "section", title: "Description" },
    {
      kind: "text",
      text: "`/etc/kvmnatd.yaml` maps ports of this host to guests. It is YAML 1.2, in the shape of a Compose file. kvmnatd applies a saved change at once. A file with an error changes nothing; `kvmnatd check` shows every error with its line and column. The file must belong to root, must not be writable by other users, and must be readable for the user `kvmnatd`.",
    },
    { kind: "section", title: "Keys" },
    ...describeKeys(schema, ""),
    { kind: "section", title: "Ports" },
    {
      kind: "text",
      text: "The short form is `[HOST_IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp|sctp|both]`, tcp is the default. IPv6 addresses need brackets, and then quotes around the whole. Both ranges of a port have the same length. The long form is a mapping with the keys `guests.NAME.ports[]` above.",
    },
    { kind: "section", title: "Values" },
    {
      kind: "text",
      text: "Values that YAML 1.1 reads in a surprising way have their plain meaning: `22:22` is two ports, not a number to the base 60, and `on` is true.",
    },
    { kind: "section", title: "Example" },
    { kind: "example", text: readFileSync(example, "utf8").trimEnd() },
    { kind: "section", title: "Files" },
    { kind: "term", term: "/etc/kvmnatd.yaml", text: "the port map" },
    {
      kind: "term",
      term: "/usr/share/kvmnatd/kvmnatd.schema.json",
      text: "its JSON Schema, for editors; `kvmnatd schema` prints the same",
    },
    { kind: "section", title: "See also" },
    { kind: "text", text: "`kvmnatd`(8)" },
  ];
}

/** Describes every key below a mapping, by its path. */
function describeKeys(schema: Schema, path: string): readonly Block[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, value]) => {
    const own = path === "" ? key : `${path}.${key}`;
    const text = value.description;
    if (text === undefined) throw new Error(`the schema does not describe ${own}`);
    return [{ kind: "term", term: own, text } satisfies Block, ...describeInner(value, own)];
  });
}

function describeInner(schema: Schema, path: string): readonly Block[] {
  const choices = [schema, ...(schema.anyOf ?? [])];
  return choices.flatMap((choice) => {
    const named = typeof choice.additionalProperties === "object" ? choice.additionalProperties : undefined;
    const mappings = [
      ...(choice === schema && choice.properties !== undefined ? [[choice, path] as const] : []),
      ...variants(named).map((each) => [each, `${path}.NAME`] as const),
      ...variants(choice.items).map((each) => [each, `${path}[]`] as const),
    ];
    return mappings.flatMap(([mapping, at]) => describeKeys(mapping, at));
  });
}

/** Lists the mappings that a value may be. */
function variants(schema: Schema | undefined): readonly Schema[] {
  if (schema === undefined) return [];
  return [schema, ...(schema.anyOf ?? [])].filter((each) => each.properties !== undefined);
}
