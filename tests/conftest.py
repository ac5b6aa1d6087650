"""What holds for every test."""

import signal

# Started in the background, by a build server or with `&`, processes ignore Ctrl-C, and so would those that
# the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
