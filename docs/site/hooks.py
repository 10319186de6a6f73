"""Builds the site from the files where they are: links between them work on the site as they do in the repository.

The sources of the site are the Markdown files of the whole repository, and the files to which they link. `docs/` is removed from
addresses. Lists are written as GitHub reads them (CommonMark); Python-Markdown wants four spaces for each level.
"""
import logging
import pathlib
import posixpath
import re
import subprocess

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The hosts to which pages may link: those of projects and standards. No page is requested during a build.
HOSTS = {
    "argoproj.github.io",
    "docs.docker.com",
    "docs.sigstore.dev",
    "github.com",
    "json-schema.org",
    "keepachangelog.com",
    "kind.sigs.k8s.io",
    "kserve.github.io",
    "kubernetes.io",
    "opentelemetry.io",
    "semver.org",
    "www.kubeflow.org",
    "www.rfc-editor.org",
}
LINK = re.compile(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|^\s*\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
FENCE = re.compile(r"^ *(```+|~~~+)")
ITEM = re.compile(r"^( *)([-*+]|\d+[.)])( +)(?=\S)")
log = logging.getLogger("mkdocs.hooks.site")


def tracked():
    """Returns the paths of the repository's files, those not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return {path for path in paths if (ROOT / path).is_file()}


def without_code(text):
    """Returns the text with its code blocks and code spans emptied."""
    lines, fence = [], None
    for line in text.splitlines():
        mark = FENCE.match(line)
        if mark and (fence is None or mark[1].startswith(fence)):
            fence = mark[1] if fence is None else None
        lines.append("" if fence or mark else re.sub(r"`[^`]*`", "``", line))
    return "\n".join(lines)


def targets(path, text):
    """Yields the links of a page, and the paths in the repository to which the relative ones lead."""
    for match in LINK.finditer(without_code(text)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            yield link, None
        elif not link.startswith("#"):
            yield link, posixpath.normpath(posixpath.join(posixpath.dirname(path), link.split("#")[0]))


def on_files(files, config):
    paths = tracked()
    pages = sorted(path for path in paths if path.endswith(".md") and not path.startswith(".github/"))
    linked = set()
    for page in pages:
        for link, target in targets(page, (ROOT / page).read_text()):
            if target is None:
                host = re.match(r"https://([^/]+)", link)
                if not host or host[1] not in HOSTS:
                    log.warning("%s links to %s, whose host is not in HOSTS of docs/site/hooks.py", page, link)
            elif target in paths:
                linked.add(target)
    chosen = [*pages, *sorted(linked - set(pages))]
    # The files of the theme, and none of docs/: these follow with their full paths.
    result = Files([file for file in files if file.src_dir != config.docs_dir])
    for path in chosen:
        file = File(path, str(ROOT), config.site_dir, config.use_directory_urls)
        file.dest_uri = address(file)
        result.append(file)
    return result


def address(file):
    """Returns the place of a file on the site."""
    if file.src_uri == "README.md":
        return "project/index.html"
    if file.src_uri.startswith("docs/"):
        return file.dest_uri.removeprefix("docs/")
    return file.dest_uri


def on_page_markdown(markdown, page, config, files):
    folder = posixpath.dirname(page.file.src_uri)

    def to_page(match):
        target = posixpath.normpath(posixpath.join(folder, match[1], "README.md"))
        return f"]({match[1]}/README.md)" if files.get_file_from_path(target) else match[0]

    # Links to folders, of which GitHub shows the README.
    return four_spaces(re.sub(r"\]\(([\w./-]+)\)", to_page, markdown))


def on_post_build(config):
    site = pathlib.Path(config.site_dir)
    loaded = re.findall(r'(?:href|src)="(assets/[^"]+)"', (site / "index.html").read_text())
    for asset in loaded or ["assets/stylesheets"]:
        if not (site / asset).exists():
            log.warning("index.html loads %s, which does not exist", asset)


def four_spaces(text):
    """Indents the contents of list items by four spaces for each level, and separates lists from paragraphs before them."""
    result = []
    # The columns at which the contents of the open items begin.
    open_items = []
    fence = None
    for line in text.splitlines():
        if fence is None and not line.strip():
            result.append("")
            continue
        indent = len(line) - len(line.lstrip(" "))
        if fence is None:
            while open_items and indent < open_items[-1] and line.strip():
                lazy = result and result[-1].strip() and not ITEM.match(line) and not FENCE.match(line)
                if lazy and not line.lstrip().startswith(("#", "|", ">")):
                    indent = open_items[-1]
                    line = " " * indent + line.lstrip()
                    break
                open_items.pop()
        column = open_items[-1] if open_items else 0
        level = "    " * len(open_items)
        item = ITEM.match(line) if fence is None else None
        if item:
            if result and result[-1].strip() and not in_list(result[-1], level):
                result.append("")
            result.append(level + line[indent:])
            open_items.append(item.end())
        else:
            result.append(level + line[min(column, indent):] if open_items else line)
        mark = FENCE.match(line)
        if mark and (fence is None or mark[1].startswith(fence)):
            fence = mark[1] if fence is None else None
    return "\n".join(result)


def in_list(line, level):
    """Returns whether a line belongs to a list of this level, or a deeper one."""
    return line.startswith(level + "    ") or bool(ITEM.match(line[len(level):]))
