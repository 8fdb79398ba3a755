"""The programs that sessions run inside: they take turns over two descriptors.

A reply is a line with a status. It is the agent's word: it may have rewritten its driver.
"""

SHELL = r"""
trap '__status=130; return 130 2>/dev/null; continue 1000 2>/dev/null' INT
__status=
while :; do
  while [ -z "$__status" ] || printf '%d\n' "$__status" >&REPLIES; do
    IFS= read -r -d '' -u REQUESTS __turn || exit 0
    __status=0
    eval "$__turn" </dev/null REQUESTS<&- REPLIES>&-
    __status=$?
  done
done
"""
"""For bash; a request of the shell ends with a zero byte instead.

An interrupt leaves the function that runs, or all loops: the next thing that the outermost one
does is to reply. A `continue` or `break` of a turn itself gets no further either.
"""

REPL = r"""
import ast, linecache, os, sys, traceback

def serve(requests, replies):
    def exactly(count):
        data = b""
        while len(data) < count:
            part = os.read(requests, count - len(data))
            if not part:
                os._exit(0)
            data += part
        return data

    os.set_inheritable(requests, False)
    os.set_inheritable(replies, False)
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    number = 0
    while True:
        try:
            text = exactly(int.from_bytes(exactly(4), "big")).decode()
        except KeyboardInterrupt:
            continue
        number += 1
        name = f"<turn {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        status = 0
        try:
            tree = ast.parse(text, name)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, name, "exec"), space)
            if last is not None:
                exec(compile(ast.Interactive([last]), name, "single"), space)
        except SystemExit:
            raise
        except BaseException as error:
            status = 1
            kind, value, trace = sys.exc_info()
            trace = trace.tb_next if trace is not None else None
            if isinstance(value, SyntaxError) and value.filename == name:
                trace = None  # the frames of the parser say nothing
            traceback.print_exception(kind, value, trace)
            del kind, value, trace
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            status = 1
        os.write(replies, b"%d\n" % status)

serve(int(sys.argv[1]), int(sys.argv[2]))
"""
"""A request is a length (4 bytes, big-endian) and that many bytes of UTF-8."""
