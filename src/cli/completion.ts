/** A command as a completion script needs it. */
export interface CommandSpec {
  readonly name: string;
  readonly summary: string;
  /** Its exit codes, in words. */
  readonly exits: string;
  /** As in the help: `-c, --config <file>`. */
  readonly options: readonly {
    readonly flags: string;
    readonly description: string;
    readonly default?: string;
  }[];
  /** Values of its argument; undefined: it has no argument. */
  readonly choices: readonly string[] | undefined;
}

export type Shell = "bash" | "zsh" | "fish";

interface Flag {
  readonly names: readonly string[];
  /** Name of the value that follows; undefined: none. A shell completes only files and folders. */
  readonly value: string | undefined;
  readonly description: string;
}

/**
 * A script for the shell's completion. It does not run kvmnatd: the commands change with the program only, and
 * starting it for every press of TAB would be slow.
 */
export function completionScript(shell: Shell, commands: readonly CommandSpec[]): string {
  switch (shell) {
    case "bash":
      return bash(commands);
    case "zsh":
      return zsh(commands);
    case "fish":
      return fish(commands);
  }
}

function flagsOf({ options }: CommandSpec): readonly Flag[] {
  const own = options.map(({ flags, description }): Flag => {
    const names = flags.match(/--?[A-Za-z][\w-]*/g) ?? [];
    const value = /<(\w+)>/.exec(flags)?.[1];
    return { names, description, value };
  });
  return [...own, { names: ["-h", "--help"], value: undefined, description: "print this help" }];
}

function bash(commands: readonly CommandSpec[]): string {
  const cases = commands.map((command) => {
    const words = [...flagsOf(command).flatMap((flag) => flag.names), ...(command.choices ?? [])];
    return `    ${command.name}) words="${words.join(" ")}" ;;`;
  });
  return `# bash completion for kvmnatd; put it into /usr/share/bash-completion/completions/kvmnatd
_kvmnatd() {
  local word=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} words
  case $previous in
${bashValues(commands)}
  esac
  case \${COMP_WORDS[1]} in
${cases.join("\n")}
    *) words="${commands.map((command) => command.name).join(" ")} help --help --version" ;;
  esac
  ((COMP_CWORD > 1)) || words="${commands.map((command) => command.name).join(" ")} help --help --version"
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _kvmnatd kvmnatd`;
}

/** What bash offers after an option with a value. */
function bashValues(commands: readonly CommandSpec[]): string {
  const flags = commands.flatMap(flagsOf);
  const after = (offer: string, isMeant: (value: string) => boolean): readonly string[] => {
    const names = flags.flatMap(({ names: own, value }) =>
      value !== undefined && isMeant(value) ? own : [],
    );
    return names.length === 0 ? [] : [`    ${[...new Set(names)].join(" | ")}) ${offer}return ;;`];
  };
  const paths = (kind: string): string =>
    `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen ${kind} -- "$word"); `;
  return [
    ...after(paths("-f"), (value) => value === "file"),
    ...after(paths("-d"), (value) => value === "dir"),
    ...after("", (value) => value !== "file" && value !== "dir"),
  ].join("\n");
}

function zsh(commands: readonly CommandSpec[]): string {
  const list = commands.map(
    ({ name, summary }) => `    ${quote(`${name}:${summary.replaceAll(":", "\\:")}`)}`,
  );
  const cases = commands.map((command) => {
    const choices = command.choices === undefined ? [] : [quote(`1:argument:(${command.choices.join(" ")})`)];
    return `    ${command.name}) _arguments ${[...flagsOf(command).map(zshFlag), ...choices].join(" ")} ;;`;
  });
  return `#compdef kvmnatd
# zsh completion for kvmnatd; put it into a folder of $fpath as _kvmnatd
_kvmnatd() {
  local -a commands=(
${list.join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  shift words
  ((CURRENT--))
  case $words[1] in
${cases.join("\n")}
  esac
}
if [ "$funcstack[1]" = _kvmnatd ]; then _kvmnatd "$@"; else compdef _kvmnatd kvmnatd; fi`;
}

function zshFlag({ names, value, description }: Flag): string {
  const what = `[${description.replaceAll(/[[\]:]/g, "\\$&")}]`;
  const offers: Readonly<Record<string, string>> = { dir: "_files -/", file: "_files" };
  const action = value === undefined ? "" : `:${value}:${offers[value] ?? ""}`;
  if (names.length === 1) return quote(`${names[0]}${what}${action}`);
  return `${quote(`(${names.join(" ")})`)}{${names.join(",")}}${quote(`${what}${action}`)}`;
}

function fish(commands: readonly CommandSpec[]): string {
  const lines = commands.flatMap((command) => {
    const { name, summary, choices } = command;
    const within = `-n '__fish_seen_subcommand_from ${name}'`;
    return [
      `complete -c kvmnatd -n __fish_use_subcommand -f -a ${name} -d ${quote(summary)}`,
      ...flagsOf(command).map((flag) => `complete -c kvmnatd ${within} ${fishFlag(flag)}`),
      ...(choices === undefined ? [] : [`complete -c kvmnatd ${within} -f -a ${quote(choices.join(" "))}`]),
    ];
  });
  return `# fish completion for kvmnatd; put it into ~/.config/fish/completions/kvmnatd.fish\n${lines.join("\n")}`;
}

function fishFlag({ names, value, description }: Flag): string {
  const flags = names.map((name) => (name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`));
  const offers: Readonly<Record<string, string>> = {
    dir: "-x -a '(__fish_complete_directories)'",
    file: "-r -F",
  };
  const values = value === undefined ? "-f" : (offers[value] ?? "-x");
  return `${flags.join(" ")} ${values} -d ${quote(description)}`;
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
