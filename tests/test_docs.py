"""The README and the pages in docs: their links lead somewhere, and their code runs."""

import pathlib
import re
import runpy
import shutil
import signal
import textwrap

import gymnasium as gym
import numpy as np
import pytest
import yaml

from conftest import CounterEnv, make_query
from sb3_varl import VARL, Advice, AdviceQuery, AdvisorCallback, FunctionAdvisor, HumanAdvisor, load_task_sheet
from sb3_varl.advisors.by_name import check_arguments
from sb3_varl.advisors.providers import import_litellm
from sb3_varl.coso import CoSo, TinyVLM
from sb3_varl.draft import measure, write_sheet
from sb3_varl.testing import VLMServer

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *ROOT.glob("*.md"),
        ROOT / "examples" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}


def blocks(page, language):
    """The pieces of code in a page, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGES[page], re.M | re.S)
    return [textwrap.dedent(code) for _, code in found]


def anchors(text):
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.S)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_every_page_is_in_the_table_of_contents():
    listed = PAGES["docs/index.md"].split("```{toctree}")[1].split("```")[0].split()
    pages = {pathlib.Path(page).stem for page in PAGES if page.startswith("docs/")}
    assert set(listed[1:]) | {"index"} == pages


def run(code, **names):
    """Run a piece of code with fewer steps than it says."""
    exec(re.sub(r"\b\d+_?000\b", "140", code), names)
    return names


def make_model(env=None, **kwargs):
    return VARL("MlpPolicy", env or CounterEnv(), buffer_size=200, policy_kwargs={"net_arch": [8]}, **kwargs)


# Short as the runs are, they end before most queries; the progress bar is not to be turned into an error.
@pytest.mark.filterwarnings("ignore::sb3_varl.AdviceWarning", "ignore::tqdm.TqdmExperimentalWarning")
@pytest.mark.usefixtures("vlm_environment")
class TestCode:
    """Each piece of Python."""

    @pytest.fixture(autouse=True)
    def _data_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def test_all_of_it_is_here(self):
        numbers = {page: len(blocks(page, "python")) for page in PAGES}
        assert {page: n for page, n in numbers.items() if n} == {
            "CONTRIBUTING.md": 1,
            "README.md": 2,
            "docs/advisors.md": 4,
            "docs/coso.md": 2,
            "docs/reliability.md": 2,
            "docs/rules.md": 4,
            "docs/serving.md": 1,
            "docs/your-task.md": 3,
        }

    def test_the_list_of_models(self, capsys):
        import_litellm()  # which does not fetch a newer list
        (code,) = blocks("docs/serving.md", "python")
        run(code)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) > 50
        assert all(float(line.split()[0]) >= 0 for line in printed)

    def test_readme(self, monkeypatch):
        with VLMServer() as server:
            monkeypatch.setenv("OPENAI_API_BASE", server.api_base)
            monkeypatch.setitem(gym.registry, "YourEnv-v0", gym.envs.registration.EnvSpec("YourEnv-v0", CounterEnv))
            code = blocks("README.md", "python")[1]
            callback = run(code, AdvisorCallback=AdvisorCallback)["callback"]
            make_model(env=gym.make("YourEnv-v0")).learn(140, callback=callback)
            assert "Open the drawer." in server.requests[0].text
            assert "measured: " in server.requests[0].text
            assert '"rules"' in server.requests[0].text
            assert len(server.requests[0].images) > 0
            assert all(image is not None for image in server.requests[0].images)

    def test_readme_without_a_key(self):
        model = run(blocks("README.md", "python")[0])["model"]
        rows = model.guidance_buffer.rows()
        assert rows["labels"].sum() > 0
        assert model.get_vec_normalize_env() is not None

    def test_a_task_of_one_s_own(self, monkeypatch):
        example = runpy.run_path(str(ROOT / "examples" / "ferry.py"))
        sheet, training, using = blocks("docs/your-task.md", "python")
        assert run(sheet)["task_sheet"] == example["Ferry"].task_sheet
        spec = gym.envs.registration.EnvSpec("YourEnv-v0", example["Ferry"], max_episode_steps=100)
        monkeypatch.setitem(gym.registry, "YourEnv-v0", spec)
        slices = [{"name": s.name, "start": s.start, "stop": s.stop} for s in example["Ferry"].task_sheet.observation]
        pathlib.Path("sheet.yml").write_text(yaml.safe_dump({"goal": "Stop at the pier.", "observation": slices}))
        pathlib.Path("preview").mkdir()
        shutil.copy(ROOT / "examples" / "ferry_rules.json", "preview/rules.json")
        model = run(training)["model"]
        assert model.guidance_buffer.rows()["labels"].any()
        assert pathlib.Path("runs/sac/evaluations.npz").exists()
        assert run(using.replace("30000", "140"))["action"].shape == (1, 2)

    def test_you(self):
        callback = run(blocks("docs/advisors.md", "python")[0])["callback"]
        assert isinstance(callback.advisor, HumanAdvisor)
        assert callback.advisor.minutes_per_query == 20

    def test_own_advisor(self):
        advice = run(blocks("docs/advisors.md", "python")[1])["Brake"]().advise(make_query(3))
        assert advice.actions[:2] == [None, None]
        np.testing.assert_array_equal(advice.actions[2], [0, 0])

    @pytest.mark.slow
    def test_coso(self):
        code = blocks("docs/coso.md", "python")[0]
        name, rest = '"HuggingFaceTB/SmolVLM-256M-Instruct"', ', "lora": None, "max_new_tokens": 8'
        assert name in code
        code = code.replace(name, f"TINY{rest}").replace("policy_kwargs=", "n_steps=10, batch_size=10, policy_kwargs=")
        model = run(code, TINY=TinyVLM(("Go.", '{"action": "+-"}'), width=16, n_layers=1))["model"]
        assert model.num_timesteps == 140

    @pytest.mark.slow
    def test_coso_made_on_the_spot(self):
        made = run(blocks("docs/coso.md", "python")[1])
        assert made["model"].num_timesteps == 512
        states = np.stack(made["states"][:20])
        policy = made["model"].policy
        written = policy.write(policy.obs_to_tensor(states)[0], deterministic=True)
        assert np.mean([utterance.reading is not None for utterance in written]) > 0.9
        assert made["pupil"].num_timesteps == 140

    def test_contributing(self):
        (code,) = blocks("CONTRIBUTING.md", "python")
        advice = run(code, AdviceQuery=AdviceQuery, Advice=Advice)["Cautious"]().advise(make_query(3))
        np.testing.assert_array_equal(advice.actions, np.zeros((3, 2)))

    def test_scripted_server(self, capsys):
        run(blocks("docs/advisors.md", "python")[2], model=make_model())
        assert "Open the drawer." in capsys.readouterr().out

    def test_scripted_server_that_misbehaves(self, capsys):
        model = make_model()
        names = run(blocks("docs/advisors.md", "python")[3], model=model)
        assert "3 requests, the first of them refused" in capsys.readouterr().out
        assert [len(request.states) for request in names["server"].requests] == [16, 16, 16]
        assert model.guidance_buffer.size() == 32
        asked = {state["state"]: state for request in names["server"].requests for state in request.states}
        assert len(asked) == 32

    def test_rules(self, capsys):
        for code in blocks("docs/rules.md", "python"):
            run(code)
        assert capsys.readouterr().out.splitlines() == [
            "lift: there is no wrist, only gripper_position, dot, gap. Take one of them",
            "[1.  0.2] 1",
        ]

    def test_a_run_that_goes_on(self):
        advisor = FunctionAdvisor(lambda observation: np.zeros(2))
        model = make_model().learn(140, callback=AdvisorCallback(advisor, blocking=True))
        model.save("checkpoints/rl_model_20000_steps")
        model.save_replay_buffer("checkpoints/rl_model_replay_buffer_20000_steps")
        names = {"VARL": VARL, "AdvisorCallback": AdvisorCallback, "advisor": advisor, "env": CounterEnv()}
        assert run(blocks("docs/reliability.md", "python")[0], **names)["model"].num_timesteps == 280

    def test_sigterm(self):
        before = signal.getsignal(signal.SIGTERM)
        try:
            run(blocks("docs/reliability.md", "python")[1], signal=signal)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)


def test_the_task_sheet(tmp_path):
    code, drafted = blocks("docs/advisors.md", "yaml")
    (tmp_path / "sheet.yml").write_text(code)
    assert load_task_sheet(tmp_path / "sheet.yml").observation[2].key == "desired_goal"
    facts = measure(gym.make("MountainCarContinuous-v0"))
    assert drafted.strip() in write_sheet(facts, "MountainCarContinuous-v0")


def test_the_settings_for_rl_zoo():
    code, of_coso = blocks("docs/rl-zoo.md", "yaml")
    ((name, settings),) = yaml.safe_load(of_coso).items()
    policy_kwargs = {**settings["policy_kwargs"], "model": TinyVLM(("Go.",), width=16, n_layers=1), "lora": None}
    CoSo(settings["policy"], f"sb3_varl.coso:{name}", policy_kwargs=policy_kwargs)
    ((_, settings),) = yaml.safe_load(code).items()
    ((_, arguments),) = settings.pop("callback")[0].items()
    check_arguments(VARL, settings, also=["n_timesteps", "normalize"])
    check_arguments(AdvisorCallback, arguments)
