"""The programs that sessions run inside: they take turns over two descriptors.

A reply is a line with a status, after any number of questions where the session has a library
(`replies.py`). It is the agent's word: it may have rewritten its driver.
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
import _thread, ast, linecache, os, signal, sys, traceback

def serve(requests, replies, library):
    owner, lock, running = os.getpid(), _thread.allocate_lock(), False

    def exactly(count):
        data = b""
        while len(data) < count:
            part = os.read(requests, count - len(data))
            if not part:
                os._exit(0)
            data += part
        return data

    def receive():
        return exactly(int.from_bytes(exactly(4), "big")).decode()

    def ask(question):
        data = question.encode(errors="replace")
        with lock:
            if not running or os.getpid() != owner:
                raise RuntimeError("nobody listens: no turn is running, or this is a copy by fork")
            # An interrupt must not tear an answer apart: it waits until all of it is read.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                rest = memoryview(b"?%d\n" % len(data) + data)
                while rest:
                    rest = rest[os.write(replies, rest):]
                return receive()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    os.set_inheritable(requests, False)
    os.set_inheritable(replies, False)
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    hooks = {"ask": ask}
    exec(compile(library, "<library>", "exec"), hooks)
    before, after = (hooks.get(name, lambda space: None) for name in ("before", "after"))
    number = 0
    while True:
        try:
            text = receive()
        except KeyboardInterrupt:
            continue
        number += 1
        name = f"<turn {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        status = 0
        try:
            running = True
            before(space)
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
            after(space)
            with lock:  # a thread that waits for an answer gets it first
                running = False
        except BaseException:
            status = 1
        if os.getpid() != owner:
            os._exit(status)  # a copy by fork does not take turns
        os.write(replies, b"%d\n" % status)

serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
"""
"""A request is a length (4 bytes, big-endian) and that many bytes of UTF-8.

The library is source that is run once, beside the space of the turns, with `ask(str) -> str` in
it: a question that whoever runs the turn answers. Its functions `before(space)` and `after(space)`,
where it has them, are called around every turn. Questions and answers are framed like requests.
"""
