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

/** kvmnatd.yaml(5), from the schema that the config is checked with. @param example the commented config */
export function configPage(example: URL): readonly Block[] {
  const schema = configJsonSchema() as Schema;
  return [
    { kind: "section", title: "Name" },
    { kind: "text", text: "kvmnatd.yaml - the port map of kvmnatd" },
    { kind: "section", title: "Description" },
    {
      kind: "text",
      text: "`/etc/kvmnatd.yaml` says which ports of this host lead to which guests. It is YAML 1.2, in the shape of a Compose file. A saved change applies at once; a file with a fault changes nothing: `kvmnatd check` shows every fault with its place. The file must belong to root and be writable by nobody else, and the user `kvmnatd` must be able to read it.",
    },
    { kind: "section", title: "Keys" },
    ...describeKeys(schema, ""),
    { kind: "section", title: "Ports" },
    {
      kind: "text",
      text: "The short form is `[HOST_IP:]PUBLISHED[-END]:TARGET[-END][/tcp|udp|sctp|both]`, tcp when nothing is said; IPv6 addresses stand in brackets, and then the whole in quotes. A range is as long as the one it leads to. The long form is a mapping of the keys `guests.NAME.ports[]` above.",
    },
    { kind: "section", title: "Values" },
    {
      kind: "text",
      text: "Values that YAML 1.1 tools read as something else are taken as a person means them: `22:22` is two ports, not a number to the base 60, and `on` is true.",
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

/** Every key below a mapping, by its path. */
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

/** The mappings that a value may be. */
function variants(schema: Schema | undefined): readonly Schema[] {
  if (schema === undefined) return [];
  return [schema, ...(schema.anyOf ?? [])].filter((each) => each.properties !== undefined);
}
