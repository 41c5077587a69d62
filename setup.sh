#!/usr/bin/env bash
# Makes .venv from requirements.txt on the first run, then runs the arguments
# with the python in it.
#
#   ./setup.sh classifier.py --quick     a script of this repository
#   ./setup.sh -m pytest                 the tests
#   ./setup.sh                           set up, and nothing else
#
# You can start it from any directory, and stay in that directory, so file
# arguments mean what you expect. It looks for a script in the repository first
# (but takes ./x.py, ../x.py and /x.py as written). Our modules can be imported
# from everywhere. "-m pytest" outside the repository runs inside it.
#
# PYTHON=/path/to/python chooses the interpreter (3.10 or newer) for the first
# run; without it, setup.sh finds one. The exit status is that of the command,
# or 2 if setting up fails.

if [ -z "${BASH_VERSION:-}" ] || [ "${BASH_SOURCE[0]}" != "$0" ]; then
    echo 'error: start it as ./setup.sh ARGS (it needs bash, and is not to be sourced)' >&2
    return 2 2>/dev/null || exit 2
fi

set -eu
unset CDPATH PYTHONHOME

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# A bash that waits for a command, as $(...) does, forgets a Ctrl-C if that command ends as usual all the same; one that
# reads dies of it. So this is how everything is asked before Python runs, one command at a time.
says() {  # sets said to what a command prints; fails if that is nothing
    IFS= read -r -d '' said < <("$@") || :
    said=${said%$'\n'}
    wait "${!-}" 2>/dev/null || :  # or Python would have a child that it does not know
    [ -n "$said" ]
}

physical() {  # prints the path of folder $1
    cd -P -- "$1" && pwd
}

case $0 in
    */*) file=$0 ;;
    *) file=./$0 ;;
esac
while [ -L "$file" ]; do  # followed by hand: older macOS has no readlink -f
    says exec readlink "$file"
    case $said in
        /*) file=$said ;;
        *) file=${file%/*}/$said ;;
    esac
done
says physical "${file%/*}"
root=$said
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/.setup  # if it exists, setup.sh made .venv; if it equals finished_stamp, the installation is complete
unfinished=unfinished  # the stamp until then

finished_stamp() {  # prints a text that changes if the checkout moves, or python or the requirements change
    local version
    version=$("$python" -V 2>/dev/null) || return 1
    printf '%s\n%s\n%s\n' "$root" "${version%.*}" "$(<"$root/requirements.txt")"
}

add() {  # appends a line of requirements.txt to plain, but no comment and no blank line: they install nothing
    local line=" $1"
    line=${line%%[[:space:]]#*}
    line=${line%"${line##*[![:space:]]}"}
    [ -z "$line" ] || plain=$plain$line$'\n'
}

add_lines() {
    local line
    while IFS= read -r line || [ -n "$line" ]; do add "$line"; done <"$1"
}

ready() {
    local installed plain=
    [ -f "$stamp" ] && [ -x "$python" ] && says exec "$python" -V 2>/dev/null || return 1
    add_lines "$stamp"
    installed=$plain plain=
    add "$root"
    add "${said%.*}"
    add_lines "$root/requirements.txt"
    [ "$installed" = "$plain" ]
}

find_python() {  # sets base to the first interpreter that is new enough and can make environments
    local how="or name one: PYTHON=/path/to/python ./setup.sh" incomplete=
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3.10 python3 python
    fi
    for base in "$@"; do
        "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || continue
        if "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then return; fi
        incomplete=${incomplete:-$base}
    done
    [ -z "$incomplete" ] || die "$incomplete has no venv and pip modules: install them" \
        "(Debian and Ubuntu: sudo apt install python3-venv), $how"
    die "no Python 3.10 or newer found (tried: $*): install one (https://www.python.org/downloads/), $how"
}

lock() {  # this shell and its children hold the lock on descriptor 9; the kernel frees it when they end or are killed
    { exec 9>>"$venv.lock"; } 2>/dev/null || die "cannot write in $root"
    "$base" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup.sh: another setup.sh is installing here, waiting for it", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError as error:
    print(f"setup.sh: no locks on this file system ({error}): do not start a second setup.sh now", file=sys.stderr)
'
}

complete() {  # whether environment $1 was installed to its end, for whatever place and requirements
    [ -f "$1/.setup" ] && [ "$(<"$1/.setup")" != "$unfinished" ] && [ -x "$1/bin/python" ]
}

discard_venv() {  # moves it away first: an interrupted deletion could leave .venv without its stamp
    rm -rf "$venv.discarded"
    [ ! -e "$venv" ] || mv "$venv" "$venv.discarded"
    rm -rf "$venv.discarded"
}

put_back() {  # the earlier environment, if a new one was begun and did not become complete
    if complete "$venv.old" && { [ ! -e "$venv" ] || [ -f "$stamp" ]; } && ! complete "$venv"; then
        discard_venv
        mv "$venv.old" "$venv"
    fi
}

give_up() {
    local kept="./setup.sh starts afresh next time"
    put_back
    if complete "$venv"; then kept="the earlier .venv is back, and $python runs as before"; fi
    die "$* (see above); $kept"
}

make_venv() {  # in its final place, as an environment cannot be moved; an earlier one waits beside it until that is done
    if [ -e "$venv" ] && ! rmdir "$venv" 2>/dev/null; then
        [ -f "$stamp" ] || die "$venv was not made by setup.sh: delete it or move it away, then start again"
        if complete "$venv"; then
            rm -rf "$venv.old"
            mv "$venv" "$venv.old"
        else
            discard_venv  # an interrupted pip leaves packages that only look installed
        fi
    fi
    echo "setup.sh: installing into .venv with $("$base" -V) (once, a few minutes)" >&2
    { mkdir "$venv" && echo "$unfinished" >"$stamp"; } 2>/dev/null || give_up "cannot write in $root"
    "$base" -m venv "$venv" </dev/null >&2 || give_up "$base -m venv failed"
    local quiet=--quiet
    if [ -t 2 ]; then quiet=; fi
    # PIP_USER=0, because pip refuses an environment if the user's settings say "user = true". Other settings hold.
    PIP_USER=0 "$python" -m pip install --disable-pip-version-check $quiet -r "$root/requirements.txt" </dev/null >&2 ||
        give_up "pip could not install requirements.txt"
    finished_stamp >"$stamp.new"
    mv "$stamp.new" "$stamp"
    rm -rf "$venv.old"
}

install() {
    find_python
    lock
    put_back  # after a setup.sh that was killed
    ready || make_venv  # ready: another setup.sh finished while this one waited
    exec 9>&-
}

case ${1-} in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
esac

[ -f "$root/requirements.txt" ] || die "$root/requirements.txt is missing"
ready || install

if [ $# -eq 0 ]; then
    echo "Ready: $("$python" -V) in $venv. Next:"
    echo '  ./setup.sh classifier.py --quick    train on the bundled samples, offline'
    echo '  ./setup.sh sanity_check.py          check the five files'
    exit 0
fi

case $1 in
    -m)
        says pwd -P
        case $said/ in
            "$root"/*) ;;
            *) if [ "${2-}" = pytest ]; then cd "$root"; fi ;;
        esac
        # -P: no module of the current folder hides an installed one of its name. Python 3.10 does not know it.
        IFS= read -r -d '' said <"$stamp" || :
        case $said in
            *$'\n'"Python 3.10"*) ;;
            *) set -- -P "$@" ;;
        esac
        ;;
    -* | /* | ./* | ../*) ;;
    *)
        if [ -f "$root/$1" ]; then
            script=$root/$1
            shift
            set -- "$script" "$@"
        fi
        ;;
esac
# course/ has the modules that files written on the course's starter import: config, utils.
export PYTHONPATH="$root:$root/course${PYTHONPATH:+:$PYTHONPATH}"
# Ctrl-C in the first hundredth of a second would end in a traceback of Python's. A script whose first import is our
# settings gets it held back until common/interrupts.py can answer it. GNU's env can do that.
said=
[ ! -f "$1" ] || { IFS= read -r -d '' said <"$1"; } 2>/dev/null || :
case $'\n'$said in
    *$'\nfrom finetuning.settings import'* | *$'\nfrom pretraining.settings import'*)
        if says exec env --block-signal=INT echo yes 2>/dev/null; then exec env --block-signal=INT "$python" "$@"; fi
        ;;
esac
exec "$python" "$@"
