import os
import signal
import subprocess
import sys

import pytest

import lmkit.files as files
from lmkit.errors import BundleError, LmkitError, OutputExists
from lmkit.files import check_free, new_folder, no_empty_folder, sha256_of, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    """Let every file be written and none be renamed into place."""

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", refuse)


@pytest.fixture
def old_bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model").write_text("old")
    return folder


class TestAFolderOfFailedWork:
    @staticmethod
    def fail(folder, *, leaving=None):
        """Fail at a work that makes a folder."""
        try:
            with no_empty_folder(folder):
                folder.mkdir(exist_ok=True)
                if leaving:
                    (folder / leaving).write_text("")
                raise ValueError
        except ValueError:
            return
        pytest.fail("the error is lost")

    def test_goes_where_it_is_empty(self, tmp_path):
        self.fail(tmp_path / "run")

        assert names(tmp_path) == []

    def test_stays_where_it_holds_something_or_was_there_before(self, tmp_path):
        (tmp_path / "mine").mkdir()
        self.fail(tmp_path / "mine")
        self.fail(tmp_path / "run", leaving="log")

        assert names(tmp_path) == ["mine", "run"]


class TestWritingAFile:
    def test_it_holds_the_text_and_nothing_lies_beside_it(self, tmp_path):
        write_atomically(tmp_path / "a.json", "네\n")

        assert (tmp_path / "a.json").read_bytes() == "네\n".encode()
        assert names(tmp_path) == ["a.json"]

    def test_it_replaces_what_was_there(self, tmp_path):
        write_atomically(tmp_path / "a", "old")
        write_atomically(tmp_path / "a", "new")

        assert (tmp_path / "a").read_text() == "new"

    def test_a_full_disk_leaves_the_old_text_and_is_a_users_error(self, tmp_path, full_disk):
        (tmp_path / "a").write_text("old")

        with pytest.raises(LmkitError, match="cannot be written: No space left on device"):
            write_atomically(tmp_path / "a", "new")

        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_a_link_stays_and_what_it_leads_to_is_replaced(self, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "a").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "there" / "a")

        write_atomically(tmp_path / "link", "new")

        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "a").read_text() == "new"
        assert names(tmp_path / "there") == ["a"]

    def test_a_pipe_is_written_to_and_stays_one(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

        write_atomically(pipe, "new")

        assert os.read(reader, 9) == b"new"
        os.close(reader)
        assert pipe.is_fifo()
        assert names(tmp_path) == ["pipe"]

    def test_ctrl_c_leaves_the_old_text_and_no_part(self, tmp_path, monkeypatch):
        def interrupt(fd):
            raise KeyboardInterrupt

        (tmp_path / "a").write_text("old")
        monkeypatch.setattr(files.os, "fsync", interrupt)

        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "a", "new")

        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_a_folder_that_is_not_there_is_a_users_error(self, tmp_path):
        with pytest.raises(LmkitError, match="cannot be written: No such file or directory"):
            write_atomically(tmp_path / "gone" / "a", "new")

    def test_a_folder_that_is_a_file_is_a_users_error(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(LmkitError, match="cannot be written: Not a directory"):
            write_atomically(tmp_path / "file" / "a", "new")


class TestANewFolder:
    def test_it_appears_whole_when_the_block_ends(self, tmp_path):
        target = tmp_path / "deep" / "bundle"

        with new_folder(target) as part:
            (part / "model").write_text("weights")
            unseen = not target.exists()

        assert unseen
        assert (target / "model").read_text() == "weights"
        assert names(target.parent) == ["bundle"]

    def test_its_permissions_are_those_of_a_plain_new_folder(self, tmp_path):
        """mkdtemp makes folders that only their owner can enter."""
        with new_folder(tmp_path / "bundle"):
            pass
        (tmp_path / "plain").mkdir()

        assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "plain").stat().st_mode

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
    def test_any_failure_leaves_nothing_and_passes_through(self, tmp_path, failure):
        def fill():
            with new_folder(tmp_path / "bundle") as part:
                (part / "model").write_text("half")
                raise failure

        with pytest.raises(failure):
            fill()

        assert names(tmp_path) == []

    def test_a_full_disk_while_filling_leaves_nothing_and_is_a_users_error(self, tmp_path):
        with pytest.raises(LmkitError, match="No space left on device"), new_folder(tmp_path / "b"):
            raise OSError(28, "No space left on device")

        assert names(tmp_path) == []

    def test_a_full_disk_at_the_rename_leaves_nothing(self, tmp_path, full_disk):
        with pytest.raises(LmkitError, match="No space left"), new_folder(tmp_path / "b"):
            pass

        assert names(tmp_path) == []

    @pytest.mark.parametrize("error", [BundleError("why"), OutputExists("x", remedy="y")])
    def test_lmkits_own_errors_keep_their_words(self, tmp_path, error):
        """OutputExists is an OSError too, and must not read as a disk that refuses."""
        with pytest.raises(type(error)) as caught, new_folder(tmp_path / "bundle"):
            raise error

        assert caught.value is error

    def test_a_parent_that_is_a_file_is_a_users_error(self, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(LmkitError, match="cannot be written"), new_folder(tmp_path / "file/b"):
            pytest.fail("there is no place for it")

    def test_an_existing_folder_is_refused_before_any_work(self, old_bundle):
        with pytest.raises(OutputExists, match="--force"), new_folder(old_bundle):
            pytest.fail("the work has begun")

        assert (old_bundle / "model").read_text() == "old"

    def test_an_empty_folder_is_as_good_as_none(self, tmp_path):
        (tmp_path / "bundle").mkdir()

        with new_folder(tmp_path / "bundle") as part:
            (part / "model").write_text("new")

        assert names(tmp_path / "bundle") == ["model"]
        assert names(tmp_path) == ["bundle"]

    def test_a_folder_that_appears_meanwhile_is_not_replaced(self, tmp_path):
        def fill():
            with new_folder(tmp_path / "bundle"):
                (tmp_path / "bundle").mkdir()
                (tmp_path / "bundle" / "theirs").write_text("theirs")

        with pytest.raises(OutputExists):
            fill()

        assert names(tmp_path / "bundle") == ["theirs"]
        assert names(tmp_path) == ["bundle"]


class TestForce:
    def test_the_old_folder_is_replaced_as_a_whole(self, old_bundle):
        with new_folder(old_bundle, force=True) as part:
            (part / "other").write_text("new")

        assert names(old_bundle) == ["other"]
        assert names(old_bundle.parent) == ["bundle"]

    def test_a_file_in_its_place_is_replaced_too(self, tmp_path):
        (tmp_path / "bundle").write_text("a file")

        with new_folder(tmp_path / "bundle", force=True):
            pass

        assert (tmp_path / "bundle").is_dir()
        assert names(tmp_path) == ["bundle"]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_a_failure_while_filling_keeps_the_old_folder(self, old_bundle, failure):
        with pytest.raises(failure), new_folder(old_bundle, force=True):
            raise failure

        assert (old_bundle / "model").read_text() == "old"
        assert names(old_bundle.parent) == ["bundle"]

    @pytest.mark.parametrize("failure", [OSError(28, "full"), KeyboardInterrupt()])
    @pytest.mark.parametrize("step", [1, 2])
    def test_a_failure_at_either_rename_keeps_the_old_folder(
        self, old_bundle, monkeypatch, failure, step
    ):
        rename, calls = os.replace, []

        def sometimes(source, destination):
            calls.append(source)
            if len(calls) == step:
                raise failure
            rename(source, destination)

        monkeypatch.setattr(files.os, "replace", sometimes)

        with pytest.raises((LmkitError, KeyboardInterrupt)), new_folder(old_bundle, force=True):
            pass

        assert (old_bundle / "model").read_text() == "old"


@pytest.mark.parametrize("force", [False, True])
def test_a_kill_leaves_a_hidden_part_at_most(tmp_path, force):
    """What cannot be cleaned up must at least not look like a finished bundle."""
    if force:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "model").write_text("old")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from lmkit.files import new_folder\n"
        f"with new_folder(Path(sys.argv[1]), force={force}) as part:\n"
        "    (part / 'model').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", script, tmp_path / "bundle"], check=False)

    assert done.returncode == -signal.SIGKILL
    hidden = [name for name in names(tmp_path) if name != "bundle"]
    assert [(name[0], name.rpartition(".")[2]) for name in hidden] == [(".", "part")]
    assert (tmp_path / "bundle").exists() == force
    if force:
        assert (tmp_path / "bundle" / "model").read_text() == "old"


class TestAFreePlace:
    def test_nothing_and_an_empty_folder_are_free(self, tmp_path):
        check_free(tmp_path / "gone", force=False)
        check_free(tmp_path, force=False)

    def test_a_file_and_a_filled_folder_are_not(self, tmp_path):
        (tmp_path / "file").write_text("")

        for taken in (tmp_path, tmp_path / "file"):
            with pytest.raises(OutputExists, match="already exists"):
                check_free(taken, force=False)

    def test_with_force_any_place_is(self, tmp_path):
        (tmp_path / "file").write_text("")

        check_free(tmp_path, force=True)


def test_sha256_is_the_well_known_one_of_no_bytes(tmp_path):
    """Source: FIPS 180-4, the digest of the empty message."""
    (tmp_path / "empty").touch()

    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_force_replaces_only_what_holds_the_marker(tmp_path):
    """Otherwise `--output runs --force` would take every run."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "precious").write_text("mine")

    with (
        pytest.raises(OutputExists, match=r"has no lmkit\.json, so --force leaves it alone"),
        new_folder(tmp_path / "runs", force=True, marker="lmkit.json"),
    ):
        pytest.fail("it was opened")

    assert (tmp_path / "runs" / "precious").read_text() == "mine"
