# SPDX-License-Identifier: Apache-2.0
"""gdb command `fibers`: every fiber that exists, with the calls it is suspended in.

    gdb -p PID    or    gdb PROGRAM CORE
    (gdb) source common/fiber-gdb.py
    (gdb) fibers              all that are not free
    (gdb) fibers destage      those whose name contains "destage"

Walks frame pointers (the build keeps them) from the place where fiber_switch left the stack, so it changes no
register and works on core files. The running fiber is what plain `bt` shows.
"""
import gdb

FRAMES_MAX = 40


def word(address):
    pointer = gdb.Value(address).cast(gdb.lookup_type("unsigned long").pointer())
    return int(pointer.dereference())


def start_of(sp):
    """(pc, frame pointer) as fiber_switch.S saved them at sp."""
    architecture = gdb.selected_inferior().architecture().name()
    if "aarch64" in architecture:
        return word(sp + 88), word(sp + 80)
    return word(sp + 48), word(sp + 40)  # r15 r14 r13 r12 rbx rbp, return address


def describe(pc):
    # A return address may belong to the next line (or function): look just before it.
    block = gdb.block_for_pc(pc - 1)
    while block and not block.function:
        block = block.superblock
    symtab = gdb.find_pc_line(pc - 1)
    name = block.function.name if block else "?"
    if symtab.symtab:
        return "%s () at %s:%d" % (name, symtab.symtab.filename, symtab.line)
    return "%s () at %#x" % (name, pc)


def backtrace(sp):
    pc, frame = start_of(sp)
    if pc == int(gdb.parse_and_eval("(unsigned long)fiber_entry")):
        yield "  not started"
        return
    for number in range(FRAMES_MAX):
        yield "  #%-2d %s" % (number, describe(pc))
        if not frame:
            return
        pc, frame = word(frame + 8), word(frame)
        if not pc:
            return


def fibers_of(sched):
    head = sched["all"].address
    fiber_type = gdb.lookup_type("struct fiber")
    offset = next(f.bitpos // 8 for f in fiber_type.fields() if f.name == "all")
    link = sched["all"]["next"]
    while link != head:
        yield gdb.Value(int(link) - offset).cast(fiber_type.pointer()).dereference()
        link = link["next"]


class Fibers(gdb.Command):
    """List fibers with backtraces: fibers [PART OF NAME]"""

    def __init__(self):
        super().__init__("fibers", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        scheds = gdb.parse_and_eval("fiber_scheds")
        low, high = scheds.type.range()
        shown = 0
        for i in range(low, high + 1):
            if not scheds[i]:
                continue
            for fiber in fibers_of(scheds[i].dereference()):
                state = str(fiber["state"]).replace("FIBER_", "").lower()
                if state == "free":
                    continue
                name = fiber["name"].string()
                if argument and argument not in name:
                    continue
                shown += 1
                print("fiber %#x '%s' %s, env %s" % (int(fiber.address), name, state, fiber["env"]))
                if state != "running":
                    print("\n".join(backtrace(int(fiber["sp"]))))
        print("%d fibers" % shown)


Fibers()
