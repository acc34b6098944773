//! What each error code means, and how to go on.

/// What there is to know about a code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explanation {
    /// `E` and four digits; the first two are the exit status.
    pub(crate) code: &'static str,
    /// In a few words.
    pub(crate) title: &'static str,
    /// Why it happens and what to do.
    pub(crate) text: &'static str,
}

/// All codes, in order.
pub(crate) const CODES: &[Explanation] = &[
    new(
        "E0101",
        "it failed",
        "The system refused something: the message ends with its reason. Nothing that was durable is lost by it. \
         Mend the reason (permission, a failing device) and call again.",
    ),
    new(
        "E0102",
        "a write-back failed",
        "The system could not write back what it had taken, so what is on disk is unknown. The process stops \
         using the files until it is started again and has read them anew. Look at the kernel's log for the \
         device, then restart it.",
    ),
    new(
        "E0103",
        "an answer nobody understands",
        "What answered on the socket does not speak this version's protocol. Use the `backspool` that the running \
         receiver or agent was started with, or restart that one.",
    ),
    new(
        "E0104",
        "the volumes are not those of that point",
        "A volume of the group was added, removed, made larger or smaller since. A live rollback writes blocks: it does \
         neither. Restore that point to a file. If a rollback that has begun is not over, give the volume the size that \
         the message says (truncate -s), and start the agent again: it goes on by itself.",
    ),
    new(
        "E0201",
        "the command line cannot be read",
        "A flag or argument is unknown, missing, in the wrong place, or makes no sense there. `backspool VERB \
         --help` shows them with an example.",
    ),
    new(
        "E0202",
        "not a store",
        "The directory holds something else: it is used only when it is empty or was made by `backspool serve`. \
         Name another.",
    ),
    new(
        "E0203",
        "made by a newer version",
        "The files were written by a newer version with a format that this one does not know. Nothing was \
         changed. Use the newer version.",
    ),
    new(
        "E0204",
        "the config file cannot be used",
        "It is TOML; the message names the line. An unknown key is an error, so that a misspelt one is not \
         silently ignored.",
    ),
    new(
        "E0205",
        "it needs a yes",
        "The call would change something, and nobody confirmed it. Look at what it would do with --dry-run; on a \
         terminal answer the question, in a script say --yes.",
    ),
    new("E0206", "an argument that cannot be", "The message says which one and what it should look like."),
    new(
        "E0207",
        "a time cannot be read",
        "WHEN is one of: latest, now, -90s, 10m, '10 minutes ago', 09:15, '2026-11-20 09:15' (both in your zone), \
         RFC 3339 with any offset or a [Zone/Name], @SECONDS since 1970, seq:NUMBER, mark:NAME. A time of day is \
         the latest such time that is not in the future. Where clocks showed a time twice, it is the later one \
         that is not in the future; a time they skipped is refused. A day is 24 hours.",
    ),
    new(
        "E0208",
        "a name that cannot be",
        "Groups, volumes, marks and agents are called by 1 to 64 characters of a-z, 0-9, '.', '_' and '-', the \
         first of them a letter or a digit.",
    ),
    new("E1001", "no such group", "There is no group of this name. `backspool status` lists those there are."),
    new(
        "E1002",
        "no such volume",
        "The group has no volume of this name at that point. `backspool status GROUP` lists its volumes.",
    ),
    new(
        "E1003",
        "nothing is served there",
        "No export, or mount, of this group is at that place: it has ended already, or the address is another. \
         `backspool status` lists what is exported and mounted.",
    ),
    new(
        "E1101",
        "held by another process",
        "Another process has this store, state directory, source, socket or image. It is a lock that counts, not \
         a file with a process id: it goes when that process ends. Stop it, or use another. A stale socket file \
         is replaced by itself.",
    ),
    new(
        "E1102",
        "it belongs to somebody else",
        "A group belongs to the agent that protected it first, and a newer session of the same agent takes over \
         from an older one. The same is said when a history does not fit: what the receiver holds and what the \
         agent knows are siblings or strangers, because one was cloned or restored from a copy. Nothing is \
         overwritten by itself. Stop the other agent, or bring back the state directory that belongs to this \
         history; if this agent is the right one, start it with --take-over: it compares everything, older points \
         stay, and the other is refused from then on. Or protect under a new group name.",
    ),
    new(
        "E1103",
        "busy",
        "The same group is being worked on: another restore, rollback or verification must end first.",
    ),
    new(
        "E1104",
        "the target is in use",
        "The target is mounted, or another process holds it. It is never written to, not even with --force. \
         Unmount it first.",
    ),
    new("E1105", "no rollback to take back", "No rollback of this group is left that --undo could take back."),
    new(
        "E1106",
        "clients are attached to the tap",
        "The source would change under their feet: what they have mounted or cached would not match it, and what they \
         write back would damage it. Unmount and detach them (umount, qemu, nbd-client -d, fusermount -u), then call \
         again. With --force-attached they are put out: they get nothing but errors until they connect anew.",
    ),
    new(
        "E1107",
        "the group has no points now",
        "A live rollback begins where all that the source holds is within a durable point, so that nothing is lost by \
         it. Now there is no session with the agent, or a first copy, a comparison or a resync is not over. \
         `backspool status` says which, and how long it takes.",
    ),
    new(
        "E1201",
        "the invitation cannot be used",
        "It has expired, was used by another key, was made void by a newer one for the same agent, was made by \
         another receiver, or is for another name than this agent's: the message says which. Make a new one with \
         `backspool invite AGENT` on the receiver's machine.",
    ),
    new(
        "E1202",
        "not trusted",
        "The other side's key is not the pinned one, or it does not know ours. If the receiver was made anew, \
         join again with a new invitation.",
    ),
    new(
        "E1203",
        "nobody allowed it there",
        "A receiver may write to a source only for a while after somebody said `backspool allow GROUP --for 10m` on the \
         source's machine. It ends with that time, and with the agent's process. What has begun within it is carried \
         to its end.",
    ),
    new(
        "E1301",
        "that time is not covered",
        "There is no recovery point then: it is before the oldest kept point, in a gap, or later than what the \
         agent has reported. The message names the neighbours; --nearest takes the earlier one, else the later. \
         `backspool points GROUP` shows all of them and the gaps with their reasons. \
         A mark is refused while there are no points to be named: during the first copy, and in a gap. Ask again \
         once `backspool status` says live.",
    ),
    new(
        "E1401",
        "damage was found",
        "A checksum, a chain or a comparison failed. What is damaged is never served; points that do not need it \
         can still be restored. `backspool verify GROUP` lists each place, and mends \
         what keeps the group from going on.",
    ),
    new(
        "E1402",
        "bytes are wrong",
        "What came back is not what was written: this must never happen. Please report it, with the directory that --keep leaves.",
    ),
    new(
        "E1403",
        "not that image",
        "`restore --since` changes an image only after it has read all of it and found that it is the one as of \
         --since. The message names the first byte that is neither of that point nor of --at, or a length that is \
         that of neither. Nothing was written. Name the point that the image is of, or restore without --since. If \
         an earlier call was interrupted, the image is partly as of its --at: name the same two points again, as the \
         plan told them (seq:…), and it is carried on.",
    ),
    new(
        "E1501",
        "the target exists",
        "The target is there already. Choose another, or say --force to overwrite a file or a block device.",
    ),
    new(
        "E1601",
        "the other side cannot be reached",
        "The agent has no session, or the receiver's address does not answer. Check that `backspool serve` runs, \
         that UDP to its port passes, and `invite --address` for how it is reached from the agent's machine. An \
         agent tries again for ever.",
    ),
    new(
        "E1602",
        "nobody answers on the socket",
        "Neither receiver nor agent is running there, or you may not reach it. On the receiver's machine start \
         `backspool serve DIR`, on the source's machine `backspool protect` or `backspool agent`; name its socket \
         with --socket (DIR/control.sock, STATE/agent.sock).",
    ),
    new(
        "E1603",
        "the answer was cut off",
        "The process that answered went away in the middle. Look at its log, start it again and call again: \
         restore and rollback can be repeated.",
    ),
    new(
        "E1604",
        "the other one answers that",
        "status and mark are answered by the agent, on the source's machine; what reads the store by the \
         receiver, on its machine. Run the command there, or name the other socket with --socket.",
    ),
    new(
        "E1605",
        "the other side is of an older version",
        "The agent that is connected does not know what it was asked to do. Nothing was changed. Update it on its \
         machine, and start it again.",
    ),
    new("E1701", "no space left", "The file system is full. Free some space and call again; nothing durable was lost."),
    new(
        "E1702",
        "the target is too small",
        "The target is smaller than the volume. Use one of the size that `backspool status` shows.",
    ),
    new(
        "E1801",
        "the kernel lacks something",
        "io_uring, O_DIRECT or another thing that this needs is missing or forbidden here (a container's seccomp \
         profile often forbids io_uring). The message names it.",
    ),
];

/// The explanation of `code`, in either case.
pub(crate) fn find(code: &str) -> Option<&'static Explanation> {
    CODES.iter().find(|known| known.code.eq_ignore_ascii_case(code))
}

const fn new(code: &'static str, title: &'static str, text: &'static str) -> Explanation {
    Explanation { code, title, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit_of;

    #[test]
    fn codes_are_in_order_and_stand_for_exit_statuses_of_the_contract() {
        assert!(CODES.is_sorted_by(|a, b| a.code < b.code));
        for known in CODES {
            let exit = exit_of(known.code).unwrap();
            assert!(matches!(exit, 1 | 2 | 10..=18), "{}", known.code);
            assert!(known.text.ends_with(['.', ')']), "{}", known.code);
        }
    }
}
