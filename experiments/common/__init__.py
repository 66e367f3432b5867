"""What all experiments share: settings, data by name, the type Experiment, and the launcher."""
