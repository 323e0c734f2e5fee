"""Two flows to read, run and copy: `penguins` needs nothing but Python, `digits` needs scikit-learn."""
