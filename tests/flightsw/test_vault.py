"""The vault: sealed files against every kind of tampering, erasure against copies and power cuts."""

from __future__ import annotations

import io
import random
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import CuttableDisk, PowerCutError

from flightsw.errors import StoreError
from flightsw.jobs import vault as module
from flightsw.jobs.vault import CHUNK_OCTETS, KeyState, Vault

FOLDER = Path("/v")
HEAD = 4 + 16
CHUNK = CHUNK_OCTETS + 16


def entropy_of(seed: int) -> module.Entropy:
    return random.Random(seed).randbytes


def opened(folder: Path, seed: int = 1) -> Vault:
    return Vault(folder, entropy_of(seed))


def sealed(vault: Vault, plain: bytes, job_id: int = 7, name: str = "result.bin") -> bytes:
    target = io.BytesIO()
    vault.seal(job_id, name, io.BytesIO(plain), target)
    return target.getvalue()


def unsealed(vault: Vault, octets: bytes, job_id: int = 7, name: str = "result.bin") -> bytes:
    target = io.BytesIO()
    vault.unseal(job_id, name, io.BytesIO(octets), target)
    return target.getvalue()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = opened(tmp_path / "vault")
    made.create(7, "Aerial", 100.0)
    made.create(8, "Aerial", 100.0)
    made.create(9, "Berg", 100.0)
    return made


SIZES = [0, 1, 15, CHUNK_OCTETS - 1, CHUNK_OCTETS, CHUNK_OCTETS + 1, 3 * CHUNK_OCTETS]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_is_unsealed_and_looks_like_noise(vault: Vault, size: int) -> None:
    plain = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    octets = sealed(vault, plain)
    assert unsealed(vault, octets) == plain
    assert len(octets) == HEAD + size + 16 * max(1, -(-size // CHUNK_OCTETS))
    assert octets != sealed(vault, plain), "every file has its own key"
    assert bytes(64) not in octets


class Trickle(io.BytesIO):
    """A stream that gives a few octets at a time, as a pipe does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 1000))


def test_a_stream_that_trickles_is_sealed_the_same(vault: Vault) -> None:
    plain = random.Random(3).randbytes(2 * CHUNK_OCTETS + 5)
    target, back = io.BytesIO(), io.BytesIO()
    vault.seal(7, "r", Trickle(plain), target)
    vault.unseal(7, "r", Trickle(target.getvalue()), back)
    assert back.getvalue() == plain


@settings(deadline=None)
@given(size=st.sampled_from(SIZES[1:]), where=st.floats(0.0, 0.999999), bit=st.integers(0, 7))
def test_any_changed_bit_is_found(size: int, where: float, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    vault = opened(tmp_path_factory.mktemp("v"))
    vault.create(7, "Aerial", 0.0)
    octets = bytearray(sealed(vault, bytes(size)))
    octets[int(where * len(octets))] ^= 1 << bit
    with pytest.raises(StoreError):
        unsealed(vault, bytes(octets))


def test_cuts_swaps_and_strangers_are_found(vault: Vault) -> None:
    octets = sealed(vault, random.Random(5).randbytes(3 * CHUNK_OCTETS))
    head, chunks = octets[:HEAD], [octets[i : i + CHUNK] for i in range(HEAD, len(octets), CHUNK)]
    assert len(chunks) == 3
    for wrong in (
        b"", head, octets[:10], octets[:-1], octets[: HEAD + 2 * CHUNK], octets[: HEAD + CHUNK],
        head + chunks[1] + chunks[0] + chunks[2], head + chunks[0] + chunks[2], head + chunks[0] * 2 + chunks[2],
        octets + chunks[2], octets + b"x", head + chunks[2], octets[: HEAD + 8],
    ):  # fmt: skip
        with pytest.raises(StoreError, match=r"sealed file result\.bin of job 7"):
            unsealed(vault, wrong)
    other = sealed(vault, random.Random(6).randbytes(3 * CHUNK_OCTETS))
    for mixed in (other[:HEAD] + octets[HEAD:], octets[: HEAD + CHUNK] + other[HEAD + CHUNK :]):
        with pytest.raises(StoreError):
            unsealed(vault, mixed)
    for job_id, name in ((8, "result.bin"), (7, "other.bin"), (9, "result.bin")):
        with pytest.raises(StoreError):
            unsealed(vault, octets, job_id, name)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_octets_are_refused(octets: bytes) -> None:
    vault = Vault(FOLDER, entropy_of(1), CuttableDisk())
    vault.create(7, "Aerial", 0.0)
    with pytest.raises(StoreError):
        unsealed(vault, octets)


def test_no_nonce_is_used_twice_under_one_key(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(module, "AESGCM", _recording(used))
    for i in range(20):
        sealed(vault, bytes(2 * CHUNK_OCTETS + 1), 7 + i % 3)
        vault.create(100 + i, "Aerial", 0.0)
    assert len(used) == 20 * 3 + 20 * 1
    assert len(set(used)) == len(used)


def _recording(used: list[tuple[bytes, bytes]]) -> object:
    class Recording:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)

        def encrypt(self, nonce: bytes, data: bytes, label: bytes) -> bytes:
            used.append((self._key, nonce))
            return self._cipher.encrypt(nonce, data, label)

    return Recording


# --- keys --------------------------------------------------------------------------------------------


def test_keys_outlive_the_process_and_only_their_owner_may_read_them(vault: Vault, tmp_path: Path) -> None:
    octets = sealed(vault, b"secret")
    files = list((tmp_path / "vault").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    again = opened(tmp_path / "vault", seed=2)
    assert again.entries == vault.entries
    assert unsealed(again, octets) == b"secret"
    for path in files:
        path.chmod(0o640)
    with pytest.raises(StoreError, match=r"mode 640, must be 600|no keyring"):
        opened(tmp_path / "vault")


def test_an_erased_job_is_noise_also_from_copies_of_everything_but_the_key_itself(
    vault: Vault, tmp_path: Path
) -> None:
    octets, other = sealed(vault, b"to be forgotten"), sealed(vault, b"to be kept", 9)
    folder = tmp_path / "vault"
    old_keyrings = {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("keyring")}
    old_kek = vault._kek
    (gone,) = vault.erase_job(7, 500.0, "telecommand")
    assert (gone.state, gone.destroyed_obt_s, gone.reason) == (KeyState.DESTROYED, 500.0, "telecommand")
    with pytest.raises(StoreError, match="was destroyed: telecommand"):
        unsealed(vault, octets)
    assert unsealed(vault, other, 9) == b"to be kept"
    # Nothing that is left on the medium opens what is left of the old keyrings.
    left = b"".join(path.read_bytes() for path in folder.iterdir())
    assert old_kek not in left
    for sealed_ring in old_keyrings.values():
        for start in range(len(left) - 32):
            with pytest.raises(InvalidTag):
                AESGCM(left[start : start + 32]).decrypt(sealed_ring[4:16], sealed_ring[16:], b"keyring 1")
    for name, content in old_keyrings.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    again = opened(folder, seed=3)
    with pytest.raises(StoreError, match="was destroyed"):
        unsealed(again, octets)
    with pytest.raises(StoreError, match="destroyed"):
        again.create(7, "Aerial", 600.0)
    assert again.erase_job(7, 700.0, "twice") == ()


def test_the_old_key_is_overwritten_and_synced_before_its_name_goes() -> None:
    disk = CuttableDisk()
    vault = Vault(FOLDER, entropy_of(1), disk)
    vault.create(7, "Aerial", 0.0)
    inodes = {name: inode for name, inode in disk.names_live.items() if name.startswith("kek-")}
    assert len(inodes) == 3
    vault.erase_job(7, 1.0, "test")
    for inode in inodes.values():
        assert not any(inode.synced)
    assert not set(inodes) & set(disk.names_synced)


def test_a_customer_is_erased_as_a_whole_and_others_are_not_harmed(vault: Vault) -> None:
    kept = sealed(vault, b"mine", 9)
    assert {entry.job_id for entry in vault.erase_customer("Aerial", 5.0, "contract ended")} == {7, 8}
    assert unsealed(vault, kept, 9) == b"mine"
    assert vault.erase_customer("Aerial", 6.0, "again") == ()


def test_retention_runs_out_to_the_second_and_counts_from_the_end(vault: Vault) -> None:
    octets = sealed(vault, b"x")
    assert vault.expire(1e12) == (), "an open job's key has no end yet"
    vault.keep_until(7, 1000.0)
    assert vault.expire(999.9) == ()
    assert unsealed(vault, octets) == b"x"
    assert [entry.job_id for entry in vault.expire(1000.0)] == [7]
    with pytest.raises(StoreError, match="retention expired"):
        unsealed(vault, octets)


def test_bounds_and_misuse_are_refused(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="job 99 has no key"):
        sealed(vault, b"", 99)
    with pytest.raises(StoreError, match="'Aerial'"):
        vault.create(7, "Berg", 0.0)
    vault.create(7, "Aerial", 0.0)
    monkeypatch.setattr(module, "KEYS_MAX", 3)
    with pytest.raises(StoreError, match="3 keys, limit 3"):
        vault.create(10, "Aerial", 0.0)
    monkeypatch.setattr(module, "TOMBSTONES_MAX", 1)
    vault.erase_job(7, 1.0, "one")
    vault.erase_job(8, 2.0, "two")
    assert set(vault.entries) == {8, 9}


@pytest.mark.parametrize("drawn", [b"", bytes(32), b"x" * 31])
def test_a_broken_random_source_is_refused(drawn: bytes) -> None:
    with pytest.raises(StoreError, match="random source"):
        Vault(FOLDER, lambda _octets: drawn, CuttableDisk())


def test_files_appear_whole_or_not_at_all(vault: Vault, tmp_path: Path) -> None:
    plain, hidden, back = tmp_path / "mask.bin", tmp_path / "mask.sealed", tmp_path / "back.bin"
    plain.write_bytes(b"abc" * 50_000)
    vault.seal_file(7, plain, hidden)
    vault.unseal_file(7, "mask.bin", hidden, back)
    assert back.read_bytes() == plain.read_bytes()
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    back.unlink()
    octets = bytearray(hidden.read_bytes())
    octets[-1] ^= 1
    hidden.write_bytes(octets)
    with pytest.raises(StoreError, match="chunk 2"):
        vault.unseal_file(7, "mask.bin", hidden, back)
    assert {path.name for path in tmp_path.iterdir()} == {"vault", "mask.bin", "mask.sealed"}


def test_a_lost_or_rotten_copy_is_made_good_and_none_left_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    vault = opened(folder)
    vault.create(7, "Aerial", 0.0)
    octets = sealed(vault, b"x")
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-3] + bytes(3))
        assert unsealed(opened(folder), octets) == b"x"
        assert (folder / name).read_bytes() == whole
        (folder / name).unlink()
        assert unsealed(opened(folder), octets) == b"x"
        assert (folder / name).read_bytes() == whole
    for name in names:
        if name.startswith("kek"):
            (folder / name).unlink()
    with pytest.raises(StoreError, match="no keyring can be opened"):
        opened(folder)


@pytest.mark.parametrize("seed", range(200))
def test_power_cuts_lose_no_acknowledged_key_and_bring_no_erased_one_back(seed: int) -> None:
    """Each life works until its power is cut at a random disk operation, opening included."""
    rng = random.Random(seed)
    disk, entropy = CuttableDisk(), entropy_of(seed)
    files: dict[int, bytes] = {}  # acknowledged keys: a file sealed with each
    erased: set[int] = set()
    doubtful: set[int] = set()  # an erasure that was under way
    next_id = 1
    for _ in range(12):
        disk.fuse = rng.randint(5, 160)
        doing = 0
        try:
            vault = Vault(FOLDER, entropy, disk)
            while True:
                doing = 0
                if rng.random() < 0.5 or not files:
                    vault.create(next_id, "A", 0.0)
                    files[next_id] = sealed(vault, b"%d" % next_id, next_id)
                    next_id += 1
                else:
                    doing = rng.choice(sorted(files))
                    doubtful.add(doing)
                    vault.erase_job(doing, 1.0, "test")
                    del files[doing]
                    doubtful.discard(doing)
                    erased.add(doing)
        except PowerCutError:
            next_id += 1
            disk.cut(rng)
        vault = Vault(FOLDER, entropy, disk)
        for job_id in sorted(doubtful):
            if vault.entries[job_id].state is KeyState.DESTROYED:
                files.pop(job_id)
                erased.add(job_id)
        doubtful.clear()
        for job_id, octets in files.items():
            assert unsealed(vault, octets, job_id) == b"%d" % job_id
        for job_id in erased:
            assert vault.entries[job_id].state is KeyState.DESTROYED
        keks = {name for name in disk.names_live if name.startswith("kek-")}
        assert len(keks) == 3, "no other generation's key is left after an opening"
