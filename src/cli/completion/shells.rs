//! The scripts of shells, where they differ from those of `clap_complete`.

/// The script of bash. It passes words as bash splits them, and needs no other package; bash 3.2 of macOS runs it.
pub(super) fn bash(variable: &str, name: &str, path: &str) -> String {
    let function: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    BASH.replace("FUNCTION", &function)
        .replace("VARIABLE", variable)
        .replace("PROGRAM", &quoted(path))
        .replace("NAME", &quoted(name))
}

const BASH: &str = r#"_FUNCTION() {
    local line words=("${COMP_WORDS[@]:0:COMP_CWORD}")
    if [[ ${COMP_WORDS[COMP_CWORD]} == [=:]* ]]; then
        words+=("${COMP_WORDS[COMP_CWORD]}")
    fi
    words+=("$2")
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(VARIABLE=bash PROGRAM -- "${words[@]}" 2>/dev/null </dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _FUNCTION NAME
"#;

/// The end of zsh's script, for a file in `fpath`: the file itself is then the function of the first completion.
pub(super) fn zsh_autoload(name: &str) -> String {
    let function = name.replace('-', "_");
    format!(
        "if [ \"$funcstack[1]\" = {} ]; then\n    _clap_dynamic_completer_{function}\nfi\n",
        quoted(&format!("_{name}"))
    )
}

/// Text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
