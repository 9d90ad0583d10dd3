"""File transfer over a link that comes and goes: a CFDP entity of class 2, both sender and receiver (727.0-B-5).

Owns what either end knows of each transaction and which PDU is sent next. Both ends drive it the same way, from their
loops, with time passed in: `advance`, `receive`, `next_pdu` while the line takes octets, `news` for what has ended. It
never touches a line and reaches the medium through `Filestore` only. Received octets never raise; StoreError does.

What the standard leaves open, and here:
- All timers run on a clock of contact time, which stands still from loss to acquisition of signal. No transfer is given
  up for silence: what is unanswered is repeated, ever more slowly, and at once at the next acquisition.
- A transfer's state is on the medium before anything that the other end may count on is said: an EOF is acknowledged
  when it is saved, Finished is sent when the file is in place, and acknowledged when the sender has noted it. Gaps are
  saved behind the data that they border on, so a restart asks again for some octets and never believes a missing one.
- Gaps are asked for as they are seen (immediate), all that are left when the EOF or a prompt comes (deferred), and
  again when nothing has come for a while.
- The sender with the highest value for each octet goes first; within one transfer what is asked for again does.
- A repeated EOF or Finished is answered for as long as the transfer is remembered, the last `CLOSED_MAX` of them, and a
  Finished always: who forgot what is over must not keep the other end waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from flightsw.errors import LinkError
from flightsw.link.cfdp_pdu import (
    LARGE_FILE_OCTETS,
    Ack,
    Checksum,
    ChecksumType,
    Condition,
    Directive,
    Eof,
    FileData,
    FileStatus,
    Finished,
    Header,
    KeepAlive,
    Metadata,
    Nak,
    Pdu,
    Prompt,
    TransactionStatus,
    pack,
    unpack,
)
from flightsw.link.cfdp_transfer import Receiver, Sender, State
from flightsw.link.filestore import Filestore, Key

OPEN_MAX: Final = 512
CLOSED_MAX: Final = 128
"""How many transfers are open at most, and how many ended ones are remembered."""

LARGEST_OCTETS: Final = 1 << 40
"""Of one file: beyond it an offset is taken for damage."""

_REPLIES_MAX: Final = 64
_CHECKPOINT_OCTETS: Final = 65_536
_CHECKPOINT_S: Final = 10.0
_SUM_OCTETS: Final = 4 << 20  # of a file's checksum in one call: some 5 ms
_TRIES_MAX: Final = 20  # of Finished: the file is in place, and a sender that wants to know asks by its EOF
_SILENCE_FACTOR: Final = 8.0
_ENTITY_ID: Final = 6  # type of the option that names the entity at fault
_LOSS_BLOCK_OCTETS: Final = 65_536
_LOSS_HIGH_FRAC, _LOSS_LOW_FRAC = 0.4, 0.1


class Config(NamedTuple):
    """One entity. `retry_s` is contact time: above the round trip with both loops; `segment_octets` the largest."""

    entity_id: int
    peer_id: int
    segment_octets: int = 1000
    segment_octets_bad: int = 200
    nak_segments_max: int = 100
    retry_s: float = 4.0
    has_crc: bool = True
    checksum_type: int = ChecksumType.CRC_32
    id_octets: int = 1
    sequence_octets: int = 4


class View(NamedTuple):
    """One transfer as shown to people. `done_octets` were received, or sent at least once."""

    key: Key
    is_sent: bool
    name: str
    size: int | None
    done_octets: int
    missing_octets: int
    state: State
    condition: Condition
    density: float
    tag: str
    path: Path | None


class Counters(NamedTuple):
    """What was not used, and how much went twice."""

    bad_pdus: int
    foreign_pdus: int
    refused_pdus: int
    repeated_octets: int


class Entity:
    """All transfers with one peer. `advance` with the present time comes before anything else in a loop's turn."""

    def __init__(self, config: Config, store: Filestore) -> None:
        """Take up the transfers that the store kept."""
        self._config = config
        self._store = store
        self._transfers: dict[Key, Sender | Receiver] = {}
        self._senders: list[Sender] = []  # open ones, the most valuable first
        self._receivers: list[Receiver] = []  # open ones
        self._closed: deque[Key] = deque()
        self._replies: deque[tuple[Header, Pdu]] = deque(maxlen=_REPLIES_MAX)
        self._news: list[View] = []
        self._now_s = 0.0
        self._contact_s = 0.0
        self._in_contact = False
        self._segment_octets = config.segment_octets
        self._sent_octets = self._asked_octets = 0
        self._bad_pdus = self._foreign_pdus = self._refused_pdus = self._repeated_octets = 0
        for key, saved in sorted(store.saved.items()):
            self._take_up(key, saved)
        store.saved.clear()

    # -- what the owner asks

    def put(self, path: Path, name: str, density: float, tag: str = "") -> Key:
        """Send a file under `name`; it must stay as it is until it is told to have ended.

        `density` is its value for each octet. LinkError where it cannot be read or too many transfers are open.
        """
        size = self._store.size(path)
        if size is None:
            raise LinkError(f"file {path} cannot be read")
        if not self.can_put:
            raise LinkError(f"{len(self._senders)} files are being sent, limit {OPEN_MAX}")
        config = self._config
        key = Key(config.entity_id, self._store.take_sequence())
        header = Header(*key, config.peer_id, has_crc=config.has_crc, is_large=size >= LARGE_FILE_OCTETS,
                        id_octets=config.id_octets, sequence_octets=config.sequence_octets)
        pack(header, Metadata(size, name, name))  # LinkError for a name that does not fit
        sender = Sender(key, header, path, name, size, density)
        sender.checksum_type, sender.tag = config.checksum_type, tag
        self._save(sender)
        self._add(sender)
        return key

    def cancel(self, key: Key) -> bool:
        """End a transfer before its time, at both ends; False when there is none that is open."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state.is_final:
            return False
        if isinstance(transfer, Sender):
            self._cancel_sender(transfer, Condition.CANCELLED)
        else:
            self._end_receiver(transfer, State.CANCELLED, Condition.CANCELLED, FileStatus.DISCARDED)
        return True

    def suspend(self, key: Key, suspended: bool) -> bool:
        """Stop a transfer for the time being, or let it go on; False when there is none that is open."""
        transfer = self._transfers.get(key)
        if transfer is None or transfer.state.is_final:
            return False
        transfer.state = State.SUSPENDED if suspended else State.ACTIVE
        transfer.wake(self._contact_s)
        self._save(transfer)
        return True

    def hold(self, may_send: Callable[[str], bool]) -> None:
        """Hold every file whose tag is not to be sent now. Not kept: to be said again after a restart."""
        for sender in self._senders:
            if sender.state in (State.ACTIVE, State.HELD):
                sender.state = State.ACTIVE if may_send(sender.tag) else State.HELD

    def settle(self, key: Key) -> None:
        """Note durably that the end of a transfer was taken in; it is not in `news` again."""
        transfer = self._transfers.get(key)
        if transfer is not None and not transfer.is_told:
            transfer.is_told = True
            self._save(transfer)
            self._close_if_over(transfer)

    def news(self) -> list[View]:
        """Transfers that ended since the last call, and after a restart those that were never settled."""
        news, self._news = self._news, []
        return news

    def views(self) -> list[View]:
        """Every transfer that is remembered, the oldest first."""
        return [self._view(transfer) for _, transfer in sorted(self._transfers.items())]

    @property
    def counters(self) -> Counters:
        """What was counted since start."""
        return Counters(self._bad_pdus, self._foreign_pdus, self._refused_pdus, self._repeated_octets)

    @property
    def is_idle(self) -> bool:
        """No transfer is open."""
        return not (self._senders or self._receivers or self._replies)

    @property
    def can_put(self) -> bool:
        """Another file can be sent."""
        return len(self._senders) < OPEN_MAX

    @property
    def segment_octets(self) -> int:
        """Octets of file in a PDU, as the line's losses suggest."""
        return self._segment_octets

    # -- the loop

    def advance(self, now_s: float, in_contact: bool) -> None:
        """Let time pass: the contact clock, retries at acquisition, checksums, checkpoints."""
        if self._in_contact:
            self._contact_s += max(0.0, now_s - self._now_s)
        self._now_s = now_s
        changed, self._in_contact = in_contact != self._in_contact, in_contact
        if self.is_idle:
            return
        for receiver in [*self._receivers]:
            if changed:
                receiver.wake(self._contact_s)
                receiver.ask_again()
                self._checkpoint(receiver)
            elif receiver.unsaved_octets and now_s - receiver.saved_s >= _CHECKPOINT_S:
                self._checkpoint(receiver)
            if receiver.is_whole and not receiver.state.is_final:
                self._verify(receiver)
        room_octets = _SUM_OCTETS
        for sender in [*self._senders]:
            if changed:
                sender.wake(self._contact_s)
                if sender.saved_octets != sender.next_offset and not sender.state.is_final:
                    self._save(sender)
            if room_octets > 0:
                room_octets -= self._sum(sender, room_octets)

    def receive(self, octets: bytes) -> None:
        """Take one received PDU; what cannot be used is counted."""
        try:
            header, pdu = unpack(octets)
        except LinkError:
            self._bad_pdus += 1
            return
        own, other = header.source_id, header.destination_id
        if not header.toward_sender:
            own, other = other, own
        if own != self._config.entity_id or other == own or header.unacknowledged:
            self._foreign_pdus += 1
            return
        key = Key(header.source_id, header.sequence)
        transfer = self._transfers.get(key)
        if header.toward_sender:
            if isinstance(transfer, Sender):
                self._at_sender(transfer, pdu)
            elif isinstance(pdu, Finished):  # whatever it was, it is over
                self._reply(header, Ack(Directive.FINISHED, pdu.condition, TransactionStatus.UNRECOGNISED))
            elif isinstance(pdu, Nak):  # of a transfer that was lost here: the other end must not wait for ever
                self._reply(header, Eof(Condition.CANCELLED, 0, 0, self._config.entity_id.to_bytes(
                    self._config.id_octets, "big")))
            else:
                self._refused_pdus += 1
            return
        if transfer is None:
            transfer = self._begin(key, header, pdu)
        if isinstance(transfer, Receiver):
            self._at_receiver(transfer, pdu)
        else:
            self._refused_pdus += 1

    def next_pdu(self) -> bytes | None:
        """Return the PDU that goes next; None when there is nothing to say, or nobody to say it to."""
        if not self._in_contact:
            return None
        if self._replies:
            return pack(*self._replies.popleft())
        for receiver in self._receivers:
            said = self._receiver_says(receiver)
            if said is not None:
                return pack(receiver.header._replace(toward_sender=True), said)
        for sender in self._senders:
            said = self._sender_says(sender)
            if said is not None:
                return pack(sender.header, said)
        return None

    def close(self) -> None:
        """Save what is under way and let go of every file."""
        for receiver in self._receivers:
            self._checkpoint(receiver)
        for sender in self._senders:
            if not sender.state.is_final:
                self._save(sender)
        self._store.close()

    # -- the receiver

    def _begin(self, key: Key, header: Header, pdu: Pdu) -> Receiver | None:
        """Open a transfer for its first PDU, whichever it is; None for one that begins nothing."""
        if not isinstance(pdu, (Metadata, FileData, Eof)):
            return None
        if isinstance(pdu, Eof) and pdu.condition:  # the end of something that was never heard of
            self._reply(header, Ack(Directive.EOF, pdu.condition, TransactionStatus.UNRECOGNISED))
            return None
        if len(self._receivers) >= OPEN_MAX:
            return None
        receiver = Receiver(key, header)
        receiver.saved_s = self._now_s
        self._add(receiver)
        return receiver

    def _at_receiver(self, receiver: Receiver, pdu: Pdu) -> None:
        if receiver.state.is_final:
            if isinstance(pdu, Ack):
                self._acknowledged(receiver)
            elif isinstance(pdu, Eof):
                self._reply(receiver.header, Ack(Directive.EOF, pdu.condition, TransactionStatus.TERMINATED))
                self._reply(receiver.header, _finished(receiver))
            return
        if isinstance(pdu, FileData):
            self._take_data(receiver, pdu)
        elif isinstance(pdu, Metadata):
            self._take_metadata(receiver, pdu)
        elif isinstance(pdu, Eof):
            self._take_eof(receiver, pdu)
        elif isinstance(pdu, Prompt):
            if pdu.keep_alive:
                receiver.keep_alive_due = True
            else:
                receiver.ask_again()
                receiver.nak_forced = True

    def _take_data(self, receiver: Receiver, pdu: FileData) -> None:
        start, end = pdu.offset, pdu.offset + len(pdu.data)
        size = receiver.size
        if end > (size if size is not None else LARGEST_OCTETS if receiver.header.is_large else LARGE_FILE_OCTETS - 1):
            self._refused_pdus += 1
            return
        fresh = receiver.cover(start, end)
        new_octets = sum(high - low for low, high in fresh)
        self._repeated_octets += end - start - new_octets
        if not new_octets:
            return
        if not self._store.write(receiver.key, start, pdu.data) or not receiver.fill(start, end):
            self._refused_pdus += 1  # asked for again when there is room
            return
        receiver.again(self._contact_s, self._config.retry_s)
        receiver.tries = 0
        receiver.unsaved_octets += new_octets
        if receiver.unsaved_octets >= _CHECKPOINT_OCTETS:
            self._checkpoint(receiver)
        if receiver.is_whole:
            self._verify(receiver)

    def _take_metadata(self, receiver: Receiver, pdu: Metadata) -> None:
        if receiver.metadata is not None:
            return
        receiver.metadata = pdu
        if pdu.size > LARGEST_OCTETS:
            self._end_receiver(receiver, State.FAILED, Condition.SIZE_ERROR, FileStatus.DISCARDED)
        elif self._store.target(pdu.destination_name) is None:
            self._end_receiver(receiver, State.FAILED, Condition.FILESTORE_REJECTION, FileStatus.REJECTED)
        elif pdu.checksum_type not in list(ChecksumType):
            self._end_receiver(receiver, State.FAILED, Condition.UNSUPPORTED_CHECKSUM, FileStatus.DISCARDED)
        elif receiver.is_whole:
            self._verify(receiver)

    def _take_eof(self, receiver: Receiver, pdu: Eof) -> None:
        if pdu.condition:
            receiver.is_acknowledged = True  # the sender ended it and waits for nothing but this
            self._end_receiver(receiver, State.CANCELLED, _condition(pdu.condition), FileStatus.DISCARDED)
            self._reply(receiver.header, Ack(Directive.EOF, pdu.condition, TransactionStatus.TERMINATED))
            self._close_if_over(receiver)
            return
        if receiver.eof is None:
            if not receiver.reach <= pdu.size <= LARGEST_OCTETS:
                self._end_receiver(receiver, State.FAILED, Condition.SIZE_ERROR, FileStatus.DISCARDED)
                return
            receiver.eof = pdu
            if receiver.reach < pdu.size:
                receiver.fill(pdu.size, pdu.size)
            self._checkpoint(receiver)
            receiver.again(self._contact_s, self._config.retry_s)
        elif self._contact_s >= receiver.due_s:
            receiver.ask_again()  # the sender has waited in vain
        receiver.eof_answer_due = True
        if receiver.is_whole:
            self._verify(receiver)

    def _verify(self, receiver: Receiver) -> None:
        """Go on with the checksum of a whole file; where it holds, the file is put in place."""
        metadata, eof = receiver.metadata, receiver.eof
        if metadata is None or eof is None or receiver.state is State.SUSPENDED:
            return
        if receiver.sum is None:
            receiver.sum = Checksum(metadata.checksum_type)
            receiver.summed = 0
        octets = self._store.read_part(receiver.key, receiver.summed, _SUM_OCTETS)
        receiver.sum.update(octets)
        receiver.summed += len(octets)
        if receiver.summed < eof.size and octets:
            return
        target = self._store.target(metadata.destination_name)
        if receiver.summed != eof.size or (receiver.sum.value != eof.checksum
                                           and metadata.checksum_type != ChecksumType.NULL):
            self._end_receiver(receiver, State.FAILED, Condition.CHECKSUM_FAILURE, FileStatus.DISCARDED)
        elif target is None:
            self._end_receiver(receiver, State.FAILED, Condition.FILESTORE_REJECTION, FileStatus.REJECTED)
        else:
            self._store.deliver(receiver.key, target, eof.size)
            receiver.path = target
            self._end_receiver(receiver, State.DELIVERED, Condition.NO_ERROR, FileStatus.RETAINED)

    def _end_receiver(self, receiver: Receiver, state: State, condition: Condition, status: FileStatus) -> None:
        receiver.state, receiver.condition, receiver.status = state, condition, status
        receiver.gaps = []
        receiver.sum = None
        if state is not State.DELIVERED:
            self._store.drop_part(receiver.key)
        self._save(receiver)
        receiver.wake(self._contact_s)
        self._news.append(self._view(receiver))

    def _receiver_says(self, receiver: Receiver) -> Pdu | None:
        config = self._config
        if receiver.eof_answer_due:
            receiver.eof_answer_due = False
            return Ack(Directive.EOF, Condition.NO_ERROR, TransactionStatus.ACTIVE)
        if receiver.state.is_final:
            if receiver.is_acknowledged or self._contact_s < receiver.due_s:
                return None
            if receiver.tries >= _TRIES_MAX:
                self._acknowledged(receiver)
                return None
            receiver.again(self._contact_s, config.retry_s)
            return _finished(receiver)
        if receiver.keep_alive_due:
            receiver.keep_alive_due = False
            return KeepAlive(receiver.reach)
        if receiver.state is not State.ACTIVE:
            return None
        if self._contact_s >= receiver.due_s and (receiver.gaps or receiver.metadata is None):
            receiver.ask_again()
        if not receiver.is_asking:
            return None
        if receiver.asked == 0:
            receiver.again(self._contact_s, config.retry_s)
        return receiver.next_nak(config.nak_segments_max)

    # -- the sender

    def _at_sender(self, sender: Sender, pdu: Pdu) -> None:
        if isinstance(pdu, Finished):
            if not sender.state.is_final:
                done = pdu.condition == Condition.NO_ERROR and pdu.is_complete
                state = State.DELIVERED if done else (
                    State.CANCELLED if pdu.condition == Condition.CANCELLED else State.FAILED)
                self._end_sender(sender, state, _condition(pdu.condition))
            self._acknowledged(sender)
            self._reply(sender.header, Ack(Directive.FINISHED, pdu.condition, TransactionStatus.TERMINATED))
        elif isinstance(pdu, Ack):
            if sender.state.is_final:
                self._acknowledged(sender)
            else:
                sender.eof_acknowledged = True
                self._listen(sender)
        elif isinstance(pdu, Nak) and not sender.state.is_final:
            self._asked_octets += sender.ask(pdu)
            self._listen(sender)
        elif isinstance(pdu, KeepAlive):
            self._listen(sender)

    def _listen(self, sender: Sender) -> None:
        """The receiver is there: an EOF is repeated only after a long silence."""
        sender.tries = 0
        if sender.eof_acknowledged:
            sender.due_s = self._contact_s + _SILENCE_FACTOR * self._config.retry_s

    def _end_sender(self, sender: Sender, state: State, condition: Condition) -> None:
        sender.state, sender.condition = state, condition
        sender.resend = []
        sender.metadata_due = False
        self._store.release(sender.path)
        self._news.append(self._view(sender))

    def _cancel_sender(self, sender: Sender, condition: Condition) -> None:
        """Tell the receiver with an EOF about what was sent so far, until it says that it heard."""
        sender.sum_size, sender.sum, sender.summed = sender.next_offset, None, 0
        self._end_sender(sender, State.CANCELLED if condition is Condition.CANCELLED else State.FAILED, condition)
        sender.wake(self._contact_s)
        self._save(sender)

    def _sum(self, sender: Sender, octets_max: int) -> int:
        """Go on with the checksum of a file, ahead of its EOF; return the octets read for it."""
        if sender.sum is None:
            sender.sum = Checksum(sender.checksum_type)
        piece = min(octets_max, sender.sum_size - sender.summed)
        if not piece:
            return 0
        octets = self._store.read(sender.path, sender.summed, piece)
        if octets is None:  # gone or cut; the EOF of a cancelled transfer may then say anything of it
            sender.summed = sender.sum_size
            if not sender.state.is_final:
                self._cancel_sender(sender, Condition.FILESTORE_REJECTION)
            return piece
        sender.sum.update(octets)
        sender.summed += piece
        return piece

    def _sender_says(self, sender: Sender) -> Pdu | None:
        if sender.state.is_final:
            return None if sender.is_acknowledged else self._eof(sender)
        if sender.state is not State.ACTIVE:
            return None
        if sender.metadata_due:
            sender.metadata_due = False
            return Metadata(sender.size, sender.name, sender.name, sender.checksum_type)
        piece = sender.next_data(self._segment_octets)
        if piece is None:
            return self._eof(sender)
        offset, octets, _ = piece
        data = self._store.read(sender.path, offset, octets)
        if data is None:
            self._cancel_sender(sender, Condition.FILESTORE_REJECTION)
            return self._eof(sender)
        if sender.next_offset - sender.saved_octets >= 4 * _CHECKPOINT_OCTETS:
            self._save(sender)
        self._adapt(octets)
        return FileData(offset, data)

    def _eof(self, sender: Sender) -> Eof | None:
        if sender.sum is None or sender.summed < sender.sum_size or self._contact_s < sender.due_s:
            return None
        sender.again(self._contact_s, self._config.retry_s * (_SILENCE_FACTOR if sender.eof_acknowledged else 1.0))
        fault = b"" if sender.condition is Condition.NO_ERROR else sender.key.source_id.to_bytes(
            sender.header.id_octets, "big")
        return Eof(sender.condition, sender.sum.value, sender.sum_size, fault)

    def _adapt(self, octets: int) -> None:
        """Choose the segment by how much was asked for again of what was sent: short ones get through a bad line."""
        self._sent_octets += octets
        if self._sent_octets < _LOSS_BLOCK_OCTETS:
            return
        lost_frac = self._asked_octets / self._sent_octets
        if lost_frac > _LOSS_HIGH_FRAC:
            self._segment_octets = min(self._config.segment_octets, self._config.segment_octets_bad)
        elif lost_frac < _LOSS_LOW_FRAC:
            self._segment_octets = self._config.segment_octets
        self._sent_octets = self._asked_octets = 0

    # -- both

    def _reply(self, header: Header, pdu: Pdu) -> None:
        """Answer beside the transfers' own order: what is over has no place in it."""
        toward_sender = isinstance(pdu, Finished) or (isinstance(pdu, Ack) and pdu.directive == Directive.EOF)
        self._replies.append((header._replace(toward_sender=toward_sender), pdu))

    def _checkpoint(self, receiver: Receiver) -> None:
        """Make what was received count: data first, then the gaps in it."""
        if receiver.state.is_final:
            return
        self._store.sync(receiver.key)
        self._save(receiver)
        receiver.unsaved_octets = 0
        receiver.saved_s = self._now_s

    def _save(self, transfer: Sender | Receiver) -> None:
        self._store.save(transfer.key, transfer.saved())
        if isinstance(transfer, Sender):
            transfer.saved_octets = transfer.next_offset

    def _add(self, transfer: Sender | Receiver) -> None:
        self._transfers[transfer.key] = transfer
        if isinstance(transfer, Receiver):
            self._receivers.append(transfer)
        else:
            self._senders.append(transfer)
            self._senders.sort(key=lambda sender: (-sender.density, sender.key))

    def _acknowledged(self, transfer: Sender | Receiver) -> None:
        """The other end knows how it ended."""
        if not transfer.is_acknowledged:
            transfer.is_acknowledged = True
            self._save(transfer)
            self._close_if_over(transfer)

    def _close_if_over(self, transfer: Sender | Receiver) -> None:
        """Put a transfer of which nothing is left to say among those that are remembered; the oldest is forgotten."""
        if not transfer.is_closed or transfer.key in self._closed:
            return
        if isinstance(transfer, Receiver):
            self._receivers.remove(transfer)
        else:
            self._senders.remove(transfer)
        self._remember(transfer.key)

    def _remember(self, key: Key) -> None:
        self._closed.append(key)
        while len(self._closed) > CLOSED_MAX:
            oldest = self._closed.popleft()
            del self._transfers[oldest]
            self._store.drop(oldest)

    def _take_up(self, key: Key, saved: dict[str, Any]) -> None:
        """Go on with a transfer of an earlier life."""
        transfer: Sender | Receiver
        if key.source_id == self._config.entity_id:
            transfer = Sender.restored(key, saved)
        else:
            transfer = Receiver.restored(key, saved)
            if not transfer.state.is_final and not self._store.has_part(key):
                self._recover_target(transfer)
        if transfer.is_closed:
            self._transfers[key] = transfer
            self._remember(key)
            return
        self._add(transfer)
        if transfer.state.is_final and not transfer.is_told and all(view.key != key for view in self._news):
            self._news.append(self._view(transfer))

    def _recover_target(self, receiver: Receiver) -> None:
        """The part is gone: the file was put in place just before the end, or else it is begun again."""
        metadata, eof = receiver.metadata, receiver.eof
        target = None if metadata is None else self._store.target(metadata.destination_name)
        if metadata is not None and eof is not None and target is not None and self._store.size(target) == eof.size:
            checksum = Checksum(metadata.checksum_type)
            for at in range(0, eof.size, _SUM_OCTETS):
                checksum.update(self._store.read(target, at, min(_SUM_OCTETS, eof.size - at)) or b"")
            self._store.release(target)
            if checksum.value == eof.checksum and eof.size:
                receiver.path = target
                self._end_receiver(receiver, State.DELIVERED, Condition.NO_ERROR, FileStatus.RETAINED)
                return
        receiver.gaps = [(0, eof.size)] if eof is not None and eof.size else []
        receiver.reach = 0 if eof is None else eof.size

    def _view(self, transfer: Sender | Receiver) -> View:
        if isinstance(transfer, Sender):
            missing = sum(end - start for start, end in transfer.resend)
            return View(transfer.key, True, transfer.name, transfer.size, transfer.next_offset, missing,
                        transfer.state, transfer.condition, transfer.density, transfer.tag, transfer.path)
        missing = sum(high - low for low, high in transfer.gaps)
        name = "" if transfer.metadata is None else transfer.metadata.destination_name
        return View(transfer.key, False, name, transfer.size, transfer.reach - missing, missing, transfer.state,
                    transfer.condition, 0.0, transfer.tag, transfer.path)


def _finished(receiver: Receiver) -> Finished:
    fault = b""
    if receiver.condition not in (Condition.NO_ERROR, Condition.UNSUPPORTED_CHECKSUM):
        octets = receiver.header.id_octets
        fault = bytes((_ENTITY_ID, octets)) + receiver.header.destination_id.to_bytes(octets, "big")
    return Finished(receiver.condition, receiver.state is State.DELIVERED, receiver.status, fault)


def _condition(code: int) -> Condition:
    """A condition that the standard does not have is a fault all the same."""
    return Condition(code) if code in list(Condition) else Condition.INVALID_STRUCTURE
