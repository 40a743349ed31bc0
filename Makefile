# Every target calls one script; without make: python packaging/develop.py demo
PYTHON ?= python3
ARGS ?=

.PHONY: demo test check setup model cells plugin wheelhouse consumers peers

demo:
	@$(PYTHON) packaging/develop.py demo $(ARGS)

test:
	@$(PYTHON) packaging/develop.py test $(ARGS)

check:
	@$(PYTHON) packaging/develop.py check

setup:
	@$(PYTHON) packaging/develop.py setup

model:
	@$(PYTHON) packaging/develop.py run python packaging/shipped_model.py $(ARGS)

cells:
	@$(PYTHON) packaging/develop.py run python packaging/cell_models.py $(ARGS)

dist/models/artseg-simulated-unet-0.5.10.zip:
	@$(PYTHON) packaging/develop.py run python packaging/shipped_model.py

plugin: dist/models/artseg-simulated-unet-0.5.10.zip
	@$(PYTHON) packaging/plugin_archive.py

wheelhouse:
	@$(PYTHON) packaging/develop.py run python packaging/wheelhouse.py $(ARGS)

# ARGS: a folder of packages; without it a small model is trained on simulated images
consumers:
	@$(PYTHON) packaging/develop.py run python tests/model_zoo/consumers/run.py $(ARGS) --write tests/model_zoo/consumers/RESULTS.md

# other people's ScoreCAM and PaDiM, in an environment of their own
peers:
	@$(PYTHON) packaging/develop.py run python packaging/peers.py $(ARGS)
