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
import _signal as signal  # as `signal`, without making names of numbers at every call
import _thread, ast, linecache, os, sys, time, traceback

SETTLE = b"\xff" * 12

def serve(requests, replies, library):
    owner, lock = os.getpid(), _thread.allocate_lock()
    running, noted, deadline = False, False, None

    def exactly(count):
        data = b""
        while len(data) < count:
            part = os.read(requests, count - len(data))
            if not part:
                os._exit(0)
            data += part
        return data

    def receive(header):
        size, left = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
        return exactly(size).decode(), left / 10**6

    def begin(left):
        nonlocal deadline
        deadline = time.monotonic() + left if left else None
        signal.setitimer(signal.ITIMER_PROF, left)

    def expire(*_):
        # CPU time is not that of a clock where there are threads. Not while interrupts are noted:
        # there only what was sent from outside counts.
        if deadline is None or signal.getsignal(signal.SIGINT) is note:
            return
        left = deadline - time.monotonic()
        if left > 0:
            signal.setitimer(signal.ITIMER_PROF, max(left, 0.001))
        else:
            signal.raise_signal(signal.SIGINT)

    def note(*_):
        nonlocal noted
        noted = True

    def hush():
        nonlocal theirs
        begin(0)
        had = signal.signal(signal.SIGINT, note)
        if had is not note:
            # None is what a library in C has put there: it can't be put back.
            theirs = had or signal.default_int_handler

    def ask(question):
        data = question.encode(errors="replace")
        with lock:
            if not running or os.getpid() != owner:
                raise RuntimeError("nobody listens: no turn is running, or this is a copy by fork")
            # An interrupt must not tear an answer apart: it waits until all of it is read.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                begin(0)
                rest = memoryview(b"?%d\n" % len(data) + data)
                while rest:
                    rest = rest[os.write(replies, rest):]
                answer, left = receive(exactly(12))
                begin(left)
                return answer
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def show(error, name):
        at = trace = error.__traceback__
        while at is not None:
            if at.tb_next is not None and at.tb_next.tb_frame.f_code is expire.__code__:
                at.tb_next = None
            at = at.tb_next
        trace = trace.tb_next if trace is not None else None
        if isinstance(error, SyntaxError) and error.filename == name:
            trace = None  # the frames of the parser say nothing
        traceback.print_exception(type(error), error, trace)

    # Between turns an interrupt is only noted, so that it tears no request apart. The next turn
    # gets it: it may be meant, and just not have had the time to begin.
    signal.signal(signal.SIGINT, note)
    theirs = signal.default_int_handler  # also where we were started with interrupts ignored
    signal.signal(signal.SIGPROF, expire)
    os.set_inheritable(requests, False)
    os.set_inheritable(replies, False)
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    hooks = {"ask": ask}
    exec(compile(library, "<library>", "exec"), hooks)
    before, after = (hooks.get(name, lambda space: None) for name in ("before", "after"))
    number = 0
    while True:
        while (header := exactly(12)) == SETTLE:
            noted = False
            os.write(replies, b"0\n")
        text, left = receive(header)
        number += 1
        name = f"<turn {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        status, failed = 0, None
        try:
            try:
                running = True
                signal.signal(signal.SIGINT, theirs)
                begin(left)
                if noted:
                    noted = False
                    signal.raise_signal(signal.SIGINT)
                before(space)
                tree = ast.parse(text, name)
                ends = tree.body and isinstance(tree.body[-1], ast.Expr)
                last = tree.body.pop() if ends else None
                exec(compile(tree, name, "exec"), space)
                if last is not None:
                    exec(compile(ast.Interactive([last]), name, "single"), space)
            except SystemExit:
                raise
            except BaseException as error:
                status, failed = 1, error
        except KeyboardInterrupt as error:  # the other side's, while the first was caught
            status, failed = 1, failed or error
        while True:  # it may be interrupted from both sides: once is enough
            try:
                if isinstance(failed, KeyboardInterrupt):
                    hush()
                break
            except BaseException:
                status = 1
        try:
            if failed is not None:
                show(failed, name)
            sys.stdout.flush()
            sys.stderr.flush()
            after(space)
            with lock:  # a thread that waits for an answer gets it first
                running = False
        except BaseException:
            status, running = 1, False
        failed = None
        while True:
            try:
                hush()
                break
            except BaseException:  # it came at the last moment
                status = 1
        if os.getpid() != owner:
            os._exit(status)  # a copy by fork does not take turns
        os.write(replies, b"%d\n" % status)

serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
"""
"""A request is a length (4 bytes, big-endian), the microseconds that its turn has left (8 bytes; 0:
nothing is said of them) and as many bytes of UTF-8.

The library is source that is run once, beside the space of the turns, with `ask(str) -> str` in
it: a question that whoever runs the turn answers. Its functions `before(space)` and `after(space)`,
where it has them, are called around every turn. Questions are framed as `replies.py` says, answers
like requests.

An interrupt counts for the turn whose request was sent before it, even if that has not begun to
run. One that came too late for its turn would count for the next, so after every turn that was
interrupted `SETTLE` is sent: it is answered with a status, and no interrupt is left.

The driver interrupts a turn itself when its time is up, because whoever sends interrupts may be
kept waiting for a processor while the turn has one. It does so by the timer of CPU time: a turn
that only waits gets no further, and code often uses the timer of real time (`signal.alarm`).
"""

SETTLE = b"\xff" * 12
"""No length and time of a request."""
