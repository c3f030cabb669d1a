"""Modules that wait until they are used. What is written to disk here is imported in processes of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_PACKAGE = {
    "shop/__init__.py": "print('shop runs'); from shop.goods import apple; __version__ = '2'; price = 3",
    "shop/goods.py": "print('goods run'); apple = 'red'; pear = 'green'",
    "shop/late.py": "import shop; cost = shop.price",
    "broken.py": "import nowhere",
    "user.py": "import shop, shop.goods as goods; from shop.goods import Fruit",
}
_HELD = """
    import sys
    from lab.lazy import Held, StandIn, used, waiting, waits
    fruit = StandIn("shop.goods", "Fruit")
    held = {"shop": Held({"name": "corner"}, until_used={"open": True}), "shop.goods": Held({"Fruit": fruit})}
"""


def run(code: str, folder: Path) -> str:
    """What a script prints that finds the modules above."""
    for name, text in _PACKAGE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    script = textwrap.dedent(_HELD) + textwrap.dedent(code)
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{script}"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_module_runs_at_its_first_use_after_its_package(tmp_path: Path) -> None:
    code = """
        with waiting(held):
            import user, shop
            print(waits("shop"), waits("shop.goods"), user.goods.__spec__.name, shop.name)
        print("later")
        print(user.goods.pear)
        print(waits("shop"), waits("shop.goods"), shop.goods is user.goods, shop.price)
    """
    assert run(code, tmp_path).splitlines() == [
        "True True shop.goods corner",
        "later",
        *("shop runs", "goods run", "green"),
        "False False True 3",
    ]


def test_what_is_given_at_import_is_not_given_afterwards(tmp_path: Path) -> None:
    code = """
        with waiting(held):
            import shop
        print(shop.open, waits("shop"))
        print(hasattr(shop, "name"), hasattr(shop, "open"), waits("shop"))
    """
    assert run(code, tmp_path).splitlines() == ["True True", "shop runs", "goods run", "False False False"]


@pytest.mark.parametrize(
    "use", ["import shop.late", "from shop import late", "from shop import *", "shop.__version__", "shop.price"]
)
def test_every_use_runs_the_package(use: str, tmp_path: Path) -> None:
    code = f"""
        with waiting(held):
            import shop
        {use}
        print(waits("shop"), sys.modules["shop"].price)
    """
    assert run(code, tmp_path).splitlines()[-1] == "False 3"


def test_who_looks_at_all_modules_runs_none(tmp_path: Path) -> None:
    code = """
        import importlib.util, inspect, warnings
        with waiting(held):
            import shop
        for module in list(sys.modules.values()):
            getattr(module, "__file__", None), getattr(module, "__warningregistry__", None), repr(module)
        inspect.getmodule(inspect.currentframe())
        import shop, shop.goods
        print(importlib.util.find_spec("shop").name, waits("shop"), waits("shop.goods"))
    """
    assert run(code, tmp_path) == "shop True True\n"


def test_a_stand_in_for_a_class_knows_its_instances_once_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    code = """
        with waiting(held):
            from user import Fruit
        print(isinstance("x", Fruit), waits("shop.goods"))
        used("shop.goods").Fruit = str
        print(isinstance("x", Fruit), isinstance(1, Fruit), Fruit(5))
    """
    assert run(code, tmp_path).splitlines() == ["False True", "shop runs", "goods run", "True False 5"]


def test_parts_are_taken_from_submodules_without_running_the_package(tmp_path: Path) -> None:
    code = """
        with waiting({"shop": Held(parts={"apple": "shop.goods"})}):
            from shop import apple
            print(apple, waits("shop"))
        print(sys.modules["shop"].price, sys.modules["shop"].apple is apple)
    """
    assert run(code, tmp_path).splitlines() == ["goods run", "red True", "shop runs", "3 True"]


def test_modules_that_have_run_or_are_not_installed_are_left_as_they_are(tmp_path: Path) -> None:
    code = """
        import shop
        with waiting({**held, "nowhere": Held(), "nowhere.part": Held()}):
            import shop.goods
        print(waits("shop"), waits("shop.goods"), "nowhere" in sys.modules, "nowhere.part" in sys.modules)
    """
    assert run(code, tmp_path).splitlines()[-1] == "False False False False"


def test_a_module_that_cannot_run_says_so_each_time(tmp_path: Path) -> None:
    code = """
        with waiting({"broken": Held()}):
            import broken
        for _ in range(2):
            try:
                broken.value
            except ModuleNotFoundError as error:
                print(error)
    """
    assert run(code, tmp_path) == "No module named 'nowhere'\n" * 2


def test_threads_that_use_a_module_at_the_same_time_run_it_once(tmp_path: Path) -> None:
    code = """
        from threading import Barrier, Thread
        with waiting(held):
            import shop
        together, found = Barrier(8), []
        def use():
            together.wait()
            found.append(shop.price)
        threads = [Thread(target=use) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        print(found)
    """
    assert run(code, tmp_path).splitlines() == ["shop runs", "goods run", "[3, 3, 3, 3, 3, 3, 3, 3]"]


def test_what_is_set_or_deleted_stays_so(tmp_path: Path) -> None:
    code = """
        with waiting(held):
            import shop
        shop.price = 7
        print(shop.price, sys.modules["shop"].apple)
        del shop.apple
        print(hasattr(shop, "apple"))
    """
    assert run(code, tmp_path).splitlines() == ["shop runs", "goods run", "7 red", "False"]


@pytest.mark.parametrize("first", ["shop.price", "del sys.modules['shop'], sys.modules['shop.goods']"])
def test_a_module_can_be_reloaded_and_imported_again(first: str, tmp_path: Path) -> None:
    code = f"""
        import importlib
        with waiting(held):
            import shop
        {first}
        if "shop" in sys.modules:
            print(importlib.reload(shop) is shop)
            del sys.modules["shop"]
        import shop as again
        print(again.price, importlib.util.find_spec("shop").name)
        print(shop.price)
    """
    assert run(code, tmp_path).splitlines()[-2:] == ["3 shop", "3"]


def test_looks_and_copies_see_the_module_itself(tmp_path: Path) -> None:
    code = """
        import copy, inspect, pickle
        with waiting(held):
            import shop
        again = pickle.loads(pickle.dumps(shop)), copy.copy(shop)
        print(shop.__package__, shop.__loader__ is shop.__spec__.loader, again[0] is shop, again[1] is shop)
        print(waits("shop"))
        print("apple" in dir(shop), shop.__doc__, [name for name, _ in inspect.getmembers(shop) if name == "price"])
    """
    lines = run(code, tmp_path).splitlines()
    assert lines[:2] == ["shop True True True", "True"]
    assert lines[-1] == "True None ['price']"
