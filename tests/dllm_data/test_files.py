"""Files that are either whole or as they were."""

import pytest

from dllm.data.files import replacing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_file_that_is_not_finished_is_as_it_was(tmp_path, error):
    (tmp_path / "a").write_text("before")
    with pytest.raises(type(error)):
        with replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise error
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "before")]
